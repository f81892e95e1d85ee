"""The report of an output as one HTML page: no network, one small script, and few files read whatever the size.

`page.py` puts it together · `survey.py` reads what many rows say, `sample.py` chooses rows to picture, `files.py` opens
data files, `reader.py` bounds what is read, `pictures.py` fetches images
`state.py` how the output stands
`drift.py` whether labels have moved between runs · `flips.py` a page of its own: where two outputs differ
`runs.py` the runs · `failures.py` what failed · `truth.py` `accuracy.py` answers against the truth
`label.py` `embed.py` `segment.py` `tokens.py` what tasks found, `own.py` other tasks · `opened.py` tiles that open
`layout.py` places on a map
`charts.py` `palette.py` `parts.py` `style.py` its look · `script.py` what it does when used
"""
