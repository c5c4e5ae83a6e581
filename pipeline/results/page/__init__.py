"""One HTML page that says what an experiment is and what came of it.

::

    facts.py     what the page says, part by part; a part may be missing
    gather.py    artefacts and MLflow -> facts
    pictures.py  videos -> film strips, as data URIs
    charts.py    numbers -> inline SVG, coloured by the page's style sheet
    page.py      facts -> page.html with style.css, in one self-contained file
"""
