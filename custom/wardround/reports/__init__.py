"""What a run says to people. It needs numpy only; matplotlib is loaded when an overlay
is drawn.

intervals -> verdict -> schema (what report.json may hold) -> page (the federation) and
site_page (stays at the site). Python computes what is shown; html.py renders
templates/, which say how it is shown.
"""
