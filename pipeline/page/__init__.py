"""The report of an output as one HTML page: no network, no script, and few files read whatever the size.

`page.py` puts it together · `sample.py` chooses rows, `reader.py` bounds what is read, `pictures.py` fetches images
`state.py` how the output stands
`drift.py` whether labels have moved between runs · `flips.py` a page of its own: where two outputs differ
`runs.py` the runs · `label.py` `embed.py` `segment.py` `tokens.py` what tasks found
`charts.py` `parts.py` `style.py` its look
"""
