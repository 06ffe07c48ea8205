"""The style of the status page: one block, and the policy that lets a browser use this block and nothing else."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#16202c;--soft:#4a5868;--line:#d5dbe3;--link:#0b57b0;
--ok:#116338;--ok-bg:#e3f5ea;--warn:#7a4100;--warn-bg:#fff1da;--bad:#a31621;--bad-bg:#fdeaec;
--next:#6b3fa0;--active:#0f6b52;--retired:#5b6878;--now:#b3261e}
@media (prefers-color-scheme:dark){:root{--bg:#10151c;--card:#18202a;--ink:#e8edf3;--soft:#a9b6c5;--line:#33404f;
--link:#8ec2ff;--ok:#7fdca9;--ok-bg:#12301f;--warn:#ffc978;--warn-bg:#38270c;--bad:#ff9aa2;--bad-bg:#3d1519;
--next:#c4a2f5;--active:#5fd3b0;--retired:#9fb0c3;--now:#ff8a80}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Noto Sans","Liberation Sans",sans-serif}
a{color:var(--link);text-underline-offset:.15em}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:4px}
.skip{position:absolute;left:-999rem}
.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.5rem 1rem;z-index:1}
header,main,footer{max-width:72rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.5rem}
.brand{margin:0;color:var(--soft);font-size:.875rem;overflow-wrap:anywhere}
.brand b{color:var(--ink)}
h1{margin:.1rem 0 .6rem;font-size:1.9rem;line-height:1.2;overflow-wrap:anywhere}
h2{margin:0 0 .75rem;font-size:1.2rem}
h3{margin:0 0 .25rem;font-size:1rem;overflow-wrap:anywhere}
p{margin:.25rem 0}
.state{display:flex;gap:.7rem;align-items:center;padding:.7rem 1rem;border-radius:.6rem;font-weight:600;
border:1px solid}
.state svg{flex:none;width:1.5rem;height:1.5rem;fill:none;stroke:currentColor;stroke-width:2;stroke-linecap:round;
stroke-linejoin:round}
.state p{margin:0;overflow-wrap:anywhere;min-width:0}
.ok{color:var(--ok);background:var(--ok-bg)}
.warn{color:var(--warn);background:var(--warn-bg)}
.bad{color:var(--bad);background:var(--bad-bg)}
section{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1.1rem 1.25rem;
margin:1rem 0}
.alarm{border-left:4px solid var(--bad);padding:.1rem 0 .1rem .9rem;margin:0 0 1.1rem}
.alarm:last-child{margin-bottom:0}
.alarm p{overflow-wrap:anywhere}
code,.kid{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;font-size:.9em;
overflow-wrap:anywhere}
.code{font-size:.8rem;font-weight:400;color:var(--soft);white-space:nowrap}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(15.5rem,100%),1fr));gap:.9rem 1.5rem;margin:0}
dt{color:var(--soft);font-size:.8125rem}
dd{margin:0;overflow-wrap:anywhere}
.quiet,.far,.note{color:var(--soft)}
.far{white-space:nowrap}
.far,.note{font-size:.875rem}
table{width:100%;border-collapse:collapse;font-size:.9375rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:.875rem;padding-bottom:.4rem}
th,td{text-align:left;vertical-align:top;padding:.45rem .75rem .45rem 0;border-top:1px solid var(--line)}
th{font-weight:600}
thead th{border-top:0;color:var(--soft);font-size:.8125rem}
tbody th,td{overflow-wrap:anywhere}
.far{display:inline-block}
.tag{display:inline-block;padding:0 .5rem;border:1px solid;border-radius:1rem;font-size:.8125rem;font-weight:600;
white-space:nowrap}
.k-next{color:var(--next);border-style:dashed}
.k-active{color:var(--active);border-width:2px}
.k-retired{color:var(--retired)}
.k-revoked{color:var(--bad);text-decoration:line-through}
figure{margin:0 0 1.25rem}
figure svg{display:block;width:100%;overflow:visible;font-size:13px}
svg text{fill:var(--ink)}
svg .label{paint-order:stroke;stroke:var(--card);stroke-width:5px;stroke-linejoin:round}
svg .axis{fill:var(--soft);font-size:12px}
svg .grid{stroke:var(--line)}
svg .now{stroke:var(--now);stroke-width:2}
svg .now-text{fill:var(--now);font-weight:600}
svg .next{fill:var(--card);stroke:var(--next);stroke-width:2}
svg .active{fill:var(--active)}
svg .retired{fill:url(#hatch);stroke:var(--retired)}
svg .coming{fill:none;stroke-width:1.5;stroke-dasharray:4 3}
svg .coming.active{stroke:var(--active)}
svg .coming.next{stroke:var(--next)}
svg .hatch{stroke:var(--retired);stroke-width:2}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;list-style:none;margin:.6rem 0 0;padding:0;font-size:.875rem;
color:var(--soft)}
.legend li{display:flex;gap:.45rem;align-items:center}
.legend svg{width:1.75rem;height:.875rem;flex:none}
footer{color:var(--soft);font-size:.875rem;padding-bottom:2rem;overflow-wrap:anywhere}
@media (max-width:44rem){
section{padding:.9rem .9rem;border-radius:.6rem}
h1{font-size:1.5rem}
table,tbody,tr,th,td,caption{display:block;width:100%}
thead{position:absolute;left:-999rem}
tbody tr{border-top:1px solid var(--line);padding:.6rem 0}
tbody th,td{border:0;padding:.1rem 0}
td{display:grid;grid-template-columns:6.5rem minmax(0,1fr);gap:.5rem}
td::before{content:attr(data-label);color:var(--soft);font-size:.8125rem;padding-top:.1rem}
}
@media print{body{background:#fff}section{break-inside:avoid}}
@media (forced-colors:active){.tag,.state{border:1px solid}svg .active{fill:CanvasText}}
"""
"""No part of it comes from a report."""

STYLE_HASH: Final = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

PAGE_POLICY: Final = (
    f"default-src 'none'; style-src '{STYLE_HASH}'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: its style block and the icon that stands in it, and nothing else."""
