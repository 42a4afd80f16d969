"""The ComfyUI editor in a browser page, as a user works it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from host import Host

PATIENCE = 120_000
"""Milliseconds. Without a GPU, on a busy machine, it may draw less than a frame a second."""


class Editor:
    def __init__(self, page: Any, host: Host, pictures: Path) -> None:
        self.page, self.host, self.pictures = page, host, pictures
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{host.port}/")
        self.wait_until_up()

    def wait_until_up(self) -> None:
        self.page.wait_for_function(
            "window.app?.graph && window.app?.canvas",
        )
        # The graph is there before what the user sees is.
        self.page.locator('[data-testid="queue-button"]').wait_for()
        self.page.wait_for_timeout(3000)
        self.page.keyboard.press("Escape")

    def set(self, name: str, value: Any) -> None:
        self.page.evaluate("([n, v]) => app.extensionManager.setting.set(n, v)", [name, value])
        self.page.wait_for_timeout(700)

    def shoot(self, name: str) -> None:
        self.page.screenshot(path=str(self.pictures / f"{name}.png"))

    def fit(self) -> None:
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(1000)

    def open_template(self, name: str) -> None:
        """From the dialog, by clicking."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        self.page.get_by_text("instructir", exact=True).last.click()
        card = self.page.locator(f'[data-testid="template-workflow-{name}"]')
        card.scroll_into_view_if_needed()
        card.click()
        self.page.wait_for_function(
            "() => app.graph._nodes.some(n => n.type === 'InstructIR_BeforeAfter')"
        )
        self.page.wait_for_timeout(1500)

    def drop(self, path: Path) -> None:
        """A file from the desktop onto the empty canvas, by the mouse."""
        browser = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}  # 1: copy
        for kind in ("dragEnter", "dragOver", "drop"):
            where = {"type": kind, "x": 900, "y": 620, "data": data}
            browser.send("Input.dispatchDragEvent", where)
        browser.detach()
        self.page.wait_for_function("() => app.graph._nodes.length > 0")
        self.page.wait_for_timeout(2500)

    def open_help(self, kind: str) -> None:
        """The help page of the first node of a kind, its picture loaded."""
        self.page.evaluate(
            "kind => app.canvas.selectNode(app.graph._nodes.find(n => n.type === kind))", kind
        )
        self.page.wait_for_timeout(500)
        self.page.locator('[data-testid="info-button"]').first.click()
        self.page.wait_for_function(
            """() => [...document.querySelectorAll('img[src*="/docs/"]')]
                     .some(img => img.complete && img.naturalWidth > 300)"""
        )

    def errors(self) -> str:
        """What the editor complains about; empty where it does not."""
        shown = self.page.locator(
            '[data-testid="error-overlay"], .p-toast-message-error, .p-toast-message-warn'
        )
        return " ".join(text for text in shown.all_inner_texts() if text.strip())

    def run(self) -> dict[str, Any]:
        """Click Run and wait for the end; the run's entry in the history."""
        before = set(self.host.get("/history"))
        self.page.locator('[data-testid="queue-button"]').click()
        for _ in range(240):
            new = set(self.host.get("/history")) - before
            if new:
                self.page.wait_for_timeout(1500)
                return dict(self.host.get("/history")[new.pop()])
            self.page.wait_for_timeout(500)
        raise AssertionError(f"nothing ran: {self.errors()}")

    def nodes(self, kind: str) -> list[dict[str, Any]]:
        """Ids and widget values of the nodes of a kind."""
        return list(self.page.evaluate(
            """kind => app.graph._nodes.filter(n => n.type === kind).map(n => ({id: n.id,
               values: Object.fromEntries((n.widgets ?? []).map(w => [w.name, w.value]))}))""",
            kind,
        ))  # fmt: skip

    def type_sentence(self, old: str, new: str) -> None:
        """Into the box that shows the old one."""
        boxes = self.page.locator("textarea")
        values = [boxes.nth(n).input_value() for n in range(boxes.count())]
        boxes.nth(values.index(old)).fill(new)
        self.page.wait_for_timeout(300)

    def listen(self) -> None:
        """Remember the progress messages of the host from now on."""
        self.page.evaluate(
            """() => { window.seen = [];
               app.api.addEventListener('progress', e => window.seen.push(e.detail.value)); }"""
        )

    def progress(self) -> list[int]:
        return list(self.page.evaluate("() => window.seen"))
