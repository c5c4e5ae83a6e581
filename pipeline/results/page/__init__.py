"""One HTML page that says what an experiment is and what came of it.

::

    facts.py   the parts of the page; a part may be missing
    gather.py  artefacts and MLflow -> facts
    page.py    facts -> page.html with style.css, in one self-contained file
"""
