"""The ComfyUI editor in a browser page, as a user works it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from host import Host


class Editor:
    def __init__(self, page: Any, host: Host, pictures: Path) -> None:
        self.page, self.host, self.pictures = page, host, pictures
        page.goto(f"http://127.0.0.1:{host.port}/")
        self.wait_until_up()

    def wait_until_up(self) -> None:
        self.page.wait_for_function("window.app?.graph && window.app?.canvas", timeout=120_000)
        # The graph is there before what the user sees is.
        self.page.locator('[data-testid="queue-button"]').wait_for(timeout=120_000)
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
        self.page.get_by_text("instructir", exact=True).last.click(timeout=20_000)
        card = self.page.locator(f'[data-testid="template-workflow-{name}"]')
        card.scroll_into_view_if_needed(timeout=20_000)
        card.click()
        self.page.wait_for_function(
            "() => app.graph._nodes.some(n => n.type === 'InstructIR_BeforeAfter')", timeout=20_000
        )
        self.page.wait_for_timeout(1500)

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
