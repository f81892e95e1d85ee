"""Everything between a URI and a Parquet row. No model head is known here.

One invocation
    run.py          check, bind, plan, execute, audit, report: from flags to exit code
    config.py       the flags all tasks share · task.py the question asked of every image · spec.py what a worker needs
    request.py      everything that can be refused, before anything is written · look.py a first look at the sources
    continued.py    what continues an output otherwise than it was begun, and is said
    late_engine.py  the engine, started when first needed · dry_run.py a sample tried
    address.py      which Ray cluster, if any · command.py how the job was called
    log.py          lines of the log · progress.py how far a run is
    report.py       receipts added up · metrics.py ... for monitoring · identity.py who and what a run was
    errors.py       what can go wrong, drawn once · status.py how it went with an image
Rooms
    source/         what the user names, and the images in it          storage/ where bytes live
    plan/           what is to be done, and whether it was done
    engine/         where spans are worked on                          decode/ bytes to pixels
    output/         what is left behind                                page/ the HTML report
    bench/          what this machine can do                           copies/ few large files of an output
Beside the flow
    model_files.py  a model on this node · hub.py ... from the hub · images.py one image by its uri
    masks.py        class masks as PNG · tokenizer.py the dVAE of a run on tokens
    evaluate.py     answers against kept truth · compare.py against another output's · pairs.py whose rows are joined
    classes.py      names and ids of classes, and which of them a truth is
    compact.py      few large files · target.py a file that a flag names and that is written last
    forget.py       rows removed for good · gone.py images that are not there any more
"""
