"""Spans in, Parquet out: everything between a URI and a row, knowing no flag and no model head.

what to do     sources.py what the user names, found and listed · plan.py spans planned, finished ones skipped
how            readers.py spans read · tar.py tar members · tables.py Parquet rows · decode.py bytes to pixels
               decoder.py a child process that decodes, so that no image can kill a worker
               predictor.py pixels to columns on one device · output.py one file per span
who            task.py the question · worker.py the steps of one span · run.py the flow on Ray
               cluster.py which Ray · job.py one run from flags to exit code, in one process too
with what      storage.py disk.py s3.py bytes somewhere · models.py a model on this node · settings.py what is bound
what came out  columns.py the schema · report.py receipts and the bill · audit.py the proof · page/ the HTML report
"""
