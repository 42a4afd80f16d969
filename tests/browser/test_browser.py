"""What an artist does, in a real browser: templates, blueprint, help, languages, reload."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from host import ROOT, Host

sys.path.insert(0, str(Path(__file__).parent))
from editor import Editor

NODES = sorted(json.loads((ROOT / "tests/host/object_info.json").read_text()))
TEMPLATES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))


@pytest.fixture
def editor(browser: Any, host: Host, pictures: Path) -> Iterator[Editor]:
    page = browser.new_page(viewport={"width": 1760, "height": 1000})
    yield Editor(page, host, pictures)
    page.close()


def succeeded(entry: dict[str, Any]) -> bool:
    return bool(entry["status"]["status_str"] == "success")


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "nodes2"])
def test_every_template_runs_on_the_first_click(editor: Editor, vue: bool) -> None:
    editor.set("Comfy.VueNodes.Enabled", vue)
    for name in TEMPLATES:
        editor.page.evaluate("() => app.graph.clear()")
        editor.open_template(name)
        assert not editor.errors(), (name, editor.errors())
        editor.shoot(f"{'nodes2' if vue else 'canvas'} {name}, as opened")
        entry = editor.run()
        assert succeeded(entry), (name, entry["status"])
        (*_, last) = editor.nodes("InstructIR_BeforeAfter")
        assert entry["outputs"][str(last["id"])]["images"], name
        editor.fit()
        editor.shoot(f"{'nodes2' if vue else 'canvas'} {name}")
        assert not editor.errors(), (name, editor.errors())
    editor.set("Comfy.VueNodes.Enabled", False)


def test_a_sentence_typed_then_reloaded_then_dropped_back(editor: Editor, host: Host) -> None:
    editor.page.evaluate("() => app.graph.clear()")
    editor.open_template("01 Restore a photo")
    editor.listen()
    editor.type_sentence("please remove the noise", "ノイズを取ってください")
    entry = editor.run()
    assert succeeded(entry)
    (say,) = editor.nodes("InstructIR_EncodeInstruction")
    assert say["values"]["text"] == "ノイズを取ってください"
    assert editor.progress() == sorted(editor.progress()) and editor.progress()[-1] == 100
    (read,) = editor.nodes("PreviewAny")
    assert "ノイズを取って" in json.dumps(read["values"], ensure_ascii=False)
    editor.fit()
    editor.shoot("typed")

    editor.page.reload()
    editor.wait_until_up()
    (say,) = editor.nodes("InstructIR_EncodeInstruction")
    assert say["values"]["text"] == "ノイズを取ってください"

    saved = next(
        output["images"][0] for output in entry["outputs"].values()
        if output.get("images", [{}])[0].get("type") == "output"
    )  # fmt: skip
    editor.page.evaluate("() => app.graph.clear()")
    editor.drop(host.base / "output" / saved["subfolder"] / saved["filename"])
    (say,) = editor.nodes("InstructIR_EncodeInstruction")
    assert say["values"]["text"] == "ノイズを取ってください"
    (restore,) = editor.nodes("InstructIR_RestoreImage")
    assert restore["values"]["strength"] == 1 and restore["values"]["overlap"] == 64
    editor.fit()
    editor.shoot("dropped back")


def test_empty_text_is_said_at_once(editor: Editor, host: Host) -> None:
    editor.page.evaluate("() => app.graph.clear()")
    editor.open_template("01 Restore a photo")
    editor.type_sentence("please remove the noise", " ")
    before = len(host.get("/history"))
    editor.page.locator('[data-testid="queue-button"]').click()
    editor.page.wait_for_timeout(3000)
    editor.shoot("empty text")
    assert editor.errors()
    assert len(host.get("/history")) == before


def test_the_blueprint_is_found_and_runs(editor: Editor, host: Host) -> None:
    served = host.get("/global_subgraphs")
    (entry_id,) = [key for key, entry in served.items() if entry["name"] == "Restore Photo"]
    assert host.get(f"/global_subgraphs/{entry_id}")["data"]
    page = editor.page
    page.evaluate("() => app.graph.clear()")
    page.mouse.dblclick(700, 600)
    page.keyboard.type("restore photo", delay=30)
    page.wait_for_timeout(1500)
    editor.shoot("search")
    found = page.get_by_text("Restore Photo", exact=True)
    assert found.count() >= 1
    found.first.click()
    page.wait_for_timeout(1000)
    page.mouse.click(700, 500)
    page.wait_for_timeout(1000)
    assert not editor.errors(), editor.errors()
    connected = page.evaluate(
        """() => { const one = app.graph._nodes.find(n => n.isSubgraphNode?.()); if (!one) return 0;
           const make = kind => { const node = LiteGraph.createNode(kind); app.graph.add(node);
                                  return node; };
           const sample = make('InstructIR_SamplePicture'), save = make('SaveImage');
           const words = make('PreviewAny');
           sample.pos = [one.pos[0] - 400, one.pos[1]]; save.pos = [one.pos[0] + 420, one.pos[1]];
           words.pos = [one.pos[0] + 420, one.pos[1] + 400];
           sample.connect(0, one, 0); one.connect(0, save, 0); one.connect(1, words, 0);
           return one.widgets.map(w => w.name).join(); }"""
    )
    assert connected == "text,strength", connected
    entry = editor.run()
    assert succeeded(entry), entry["status"]
    assert any("noise" in json.dumps(output) for output in entry["outputs"].values())
    editor.fit()
    editor.shoot("blueprint")


@pytest.mark.parametrize("language", ["en", "ja"])
def test_every_help_page_opens_with_its_picture(editor: Editor, language: str) -> None:
    editor.set("Comfy.Locale", language)
    editor.page.reload()
    editor.wait_until_up()
    try:
        for kind in NODES:
            editor.page.evaluate("() => app.graph.clear()")
            editor.page.evaluate(
                """kind => { const node = LiteGraph.createNode(kind); node.pos = [300, 300];
                   app.graph.add(node); }""",
                kind,
            )
            editor.open_help(kind)
            page = f"{kind}.md" if language == "en" else f"{kind}/{language}.md"
            text = (ROOT / "web/docs" / page).read_text("utf-8")
            editor.page.get_by_text(text.splitlines()[0][:12]).first.wait_for()
            editor.shoot(f"help {language} {kind}")
    finally:
        editor.set("Comfy.Locale", "en")


@pytest.mark.parametrize(
    ("language", "title"),
    [("zh", "修复图像"), ("zh-TW", "修復影像"), ("ja", "画像を修復"), ("ko", "이미지 복원")],
)
def test_languages(editor: Editor, language: str, title: str) -> None:
    editor.set("Comfy.Locale", language)
    editor.page.reload()
    editor.wait_until_up()
    try:
        made = editor.page.evaluate("() => LiteGraph.createNode('InstructIR_RestoreImage').title")
        assert made == title
    finally:
        editor.set("Comfy.Locale", "en")
