"""The one style sheet: light, dark, narrow screens and paper. Meaning is never carried by colour alone."""

_LIGHT = (
    "--ink:#1b2530;--soft:#55626e;--line:#d5dce2;--paper:#ffffff;--panel:#f6f8fa;--accent:#0b5c8a;--mark:#e8f1f7;"
    "--good:#1d6b3f;--warn:#855400;--bad:#9c2b23"
)
_DARK = (
    "--ink:#e4eaf0;--soft:#9eabb7;--line:#34404b;--paper:#11161b;--panel:#192027;--accent:#76bfe9;--mark:#1c303d;"
    "--good:#72c995;--warn:#e3b55c;--bad:#f1938a"
)
CSS = (
    ":root{color-scheme:light dark;" + _LIGHT + "}@media (prefers-color-scheme:dark){:root{" + _DARK + "}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:44px 0 10px;padding-bottom:6px;border-bottom:1px solid var(--line)}
h3{font-size:1.05rem;margin:0;overflow-wrap:anywhere}
h4{font-size:.95rem;margin:18px 0 6px}
p{margin:6px 0;max-width:92ch}
ul{margin:6px 0;padding-left:1.3em;max-width:90ch}
li{overflow-wrap:anywhere}
.soft,figcaption,.facts{color:var(--soft);font-size:.875rem}
.banner{border:1px solid var(--line);border-left:6px solid var(--accent);background:var(--panel);border-radius:4px;
padding:12px 16px;margin:14px 0}
.banner strong{letter-spacing:.03em}
.banner.bad,.card.not_helped{border-left-color:var(--bad)}
.banner.good,.card.helped{border-left-color:var(--good)}
.banner.warn,.card.chance{border-left-color:var(--warn)}
.bad>strong{color:var(--bad)}.good>strong{color:var(--good)}.warn>strong{color:var(--warn)}
.card{border:1px solid var(--line);border-left:6px solid var(--soft);border-radius:4px;padding:16px 18px;
margin:16px 0;break-inside:avoid}
.card header{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline;justify-content:space-between}
.card.unusable{border-left-color:var(--bad)}.unusable .badge{color:var(--bad)}
.badge{font-size:.75rem;font-weight:600;border:1px solid currentColor;border-radius:3px;padding:1px 7px;
white-space:nowrap;color:var(--soft)}
.helped .badge{color:var(--good)}.chance .badge{color:var(--warn)}.not_helped .badge{color:var(--bad)}
.verdict{font-size:1.06rem;margin:8px 0 10px}
.scroll{overflow-x:auto;margin:10px 0}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:0 0 6px;font-size:.875rem}
th,td{padding:6px 8px;border-bottom:1px solid var(--line);text-align:right;vertical-align:baseline;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
tbody th{font-weight:500;white-space:normal;min-width:11.5em;overflow-wrap:anywhere}
thead th{white-space:normal;color:var(--soft);font-weight:600;border-bottom:1px solid var(--soft)}
tr.deployed{background:var(--mark)}tr.deployed th,tr.deployed td{font-weight:600}
.ci{color:var(--soft);font-weight:400;font-size:.92em;display:block}
.words{white-space:normal;display:inline-block;min-width:7em}
code{font-size:.92em;overflow-wrap:anywhere}
.chosen{white-space:nowrap;color:var(--accent)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(236px,1fr));gap:12px}
figure{margin:0;break-inside:avoid}
.panels figure{border:1px solid var(--line);border-radius:4px;padding:8px 8px 6px}
figcaption{overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto}
svg text{font-size:10.5px;fill:var(--soft);font-family:inherit}
svg .grid{stroke:var(--line);stroke-width:1}
svg .mean{fill:none;stroke:var(--soft);stroke-width:1.2;stroke-dasharray:4 3}
svg .line{fill:none;stroke:var(--accent);stroke-width:2;stroke-linejoin:round}
svg .dot{fill:var(--accent)}
svg .best{stroke:var(--good);stroke-width:1;stroke-dasharray:2 3}
svg .span{stroke:var(--soft);stroke-width:2}
svg .open{fill:var(--paper);stroke:var(--soft);stroke-width:2}
svg .span.deployed{stroke:var(--accent);stroke-width:3}
svg .open.deployed{fill:var(--accent);stroke:var(--accent)}
svg text.deployed,svg text.ink{fill:var(--ink);font-weight:600}
.pictures img{display:block;max-width:100%;height:auto;border:1px solid var(--line)}
.pictures figure{margin:12px 0}
dl{margin:6px 0;display:grid;grid-template-columns:minmax(9em,max-content) 1fr;gap:4px 18px;font-size:.9rem}
dt{font-weight:600;overflow-wrap:anywhere}dd{margin:0;overflow-wrap:anywhere;max-width:74ch}
footer{margin-top:44px;border-top:1px solid var(--line);padding-top:10px}
@media (max-width:600px){main{padding:20px 14px 40px}dl{grid-template-columns:1fr}dd{margin-bottom:6px}
th,td{padding:6px}}
@media print{:root{color-scheme:light;"""
    + _LIGHT
    + """}
body{font-size:10.5pt}main{max-width:none;padding:0}h2,h4{break-after:avoid}.panels{grid-template-columns:repeat(4,1fr)}
tr{break-inside:avoid}.scroll{overflow:visible}
table{font-size:8.5pt}th,td{padding:3px 5px}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
@page{margin:15mm}}
"""
)
