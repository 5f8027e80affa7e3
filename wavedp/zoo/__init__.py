"""Public models that come with wavedp, and released private ones in a file.

    models/<NAME>/    an entry: a tokenizer, pretrained generator or upscaler that any store finds by key, so that a
                      study with its settings does not train it (wavedp.entries)
    facts/            what keys need of the public images, so that nobody has to fetch them (wavedp.data.facts)

`python -m wavedp.zoo` lists, verifies, rebuilds and adds entries; it packs the model of a finished private fit, with
its ledger lines, into one file, and loads such a file into a store (wavedp.zoo.released).

`zoo.use=false` trains everything; `zoo.exclude_licences=[GPL-2.0]` leaves out what has that licence.
"""
