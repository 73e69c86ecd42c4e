"""Texts that run a script or add an element where a page shows them unescaped. A script that ran sets the title."""

RUN = "parent.document.title=1337"
PAYLOADS = (
    f'<iframe srcdoc="&lt;script&gt;{RUN}&lt;&sol;script&gt;">',
    f'<img src=x onerror="{RUN}">',
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f'"><img src=x onerror={RUN}>',
    f"' autofocus tabindex=0 onfocus='{RUN}",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<details open ontoggle={RUN}>",
    f"<input autofocus onfocus={RUN}>",
    f"`</code><img src=x onerror={RUN}>`",
    f"&lt;img src=x onerror={RUN}&gt;",
    f"![x](data:image/svg+xml,%3Csvg/onload={RUN}%3E) [y](javascript:{RUN})",
    f"{{{{arrays}}}} {{{RUN}}} ${{{RUN}}}",
    f"\u2028<style onload={RUN}></style>\u2029",
    "<base href=https://example.org/><meta http-equiv=refresh content=0;url=https://example.org/>",
)
FOLDER_NAMES = tuple(f"{i:02d} {text}" for i, text in enumerate(PAYLOADS) if "/" not in text)
"""Payloads that can be names of folders."""
