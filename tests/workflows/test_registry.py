"""The registry: modules that a server is started with are found, imported and searched, and errors are
explained.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from server.workflows import BadModule, Registry, load
from tests.harness.servers import ROOT

from .conftest import App

SHOP = """
    from server.workflows import tool, workflow

    @workflow("sell")
    async def sell(run): ...

    @tool
    def refund(amount: int) -> None:
        "Pays back."
"""


def test_registry_is_empty_by_default() -> None:
    for registry in (Registry(), load([])):
        assert dict(registry.workflows) == {}
        assert dict(registry.tools) == {}


def test_modules_of_the_current_folder(app: App) -> None:
    app("shop/bots/seller.py", SHOP)
    app(
        "other.py",
        """
        from server.workflows import workflow

        @workflow("other")
        async def other(run): ...
    """,
    )
    registry = load(["shop.bots.seller", "other"])
    assert list(registry.workflows) == ["sell", "other"]
    assert list(registry.tools) == ["refund"]
    assert registry.tools["refund"] is sys.modules["shop.bots.seller"].refund
    assert registry.workflows["other"].name == "other"


def test_current_folder_comes_first_on_the_path_once(app: App) -> None:
    app("shop.py", SHOP)
    load(["shop"])
    load(["shop"])
    assert sys.path[0] == str(Path.cwd())
    assert sys.path.count(str(Path.cwd())) == 1


@pytest.mark.parametrize("as_empty", [True, False])
def test_path_with_the_current_folder_is_unchanged(
    app: App, monkeypatch: pytest.MonkeyPatch, as_empty: bool
) -> None:
    app("shop.py", SHOP)
    path = [*sys.path, "" if as_empty else str(Path.cwd())]
    monkeypatch.setattr(sys, "path", path)
    assert list(load(["shop"]).workflows) == ["sell"]
    assert sys.path == path


def test_imported_declarations_count_once(app: App) -> None:
    app("shop.py", SHOP)
    app("all_of_it.py", "from shop import refund, sell\nagain = sell\n")
    registry = load(["all_of_it", "shop", "shop"])
    assert list(registry.workflows) == ["sell"]
    assert list(registry.tools) == ["refund"]


def test_workflow_and_tool_may_share_a_name(app: App) -> None:
    app("shop.py", SHOP.replace('"sell"', '"refund"'))
    registry = load(["shop"])
    assert list(registry.workflows) == list(registry.tools) == ["refund"]


def test_registry_is_read_only(app: App) -> None:
    app("shop.py", SHOP)
    registry = load(["shop"])
    with pytest.raises(TypeError):
        registry.tools["other"] = registry.tools["refund"]  # type: ignore[index]


def load_error(*modules: str) -> str:
    with pytest.raises(BadModule) as caught:
        load(modules)
    return str(caught.value)


def test_duplicate_names_are_refused(app: App) -> None:
    app("shop.py", SHOP)
    app("tools.py", "from server.workflows import tool\n\n@tool(name='refund')\ndef other(): 'Pays.'\n")
    app("flows.py", "from server.workflows import workflow\n\n@workflow('sell')\nasync def other(run): ...\n")
    assert load_error("shop", "tools") == (
        "Two tools are called refund: shop.refund (line 7) and tools.other (line 3). Rename one of them."
    )
    assert load_error("flows", "shop") == (
        "Two workflows are called sell: flows.other (line 3) and shop.sell (line 4). Rename one of them."
    )


def test_missing_module(app: App) -> None:
    told = load_error("shop")
    assert told == f"There is no module shop in {Path.cwd()}, nor elsewhere on Python's path."


@pytest.mark.parametrize(
    ("file", "asked", "meant"),
    [
        ("shop/bots.py", "shop.bot", "shop.bots (shop/bots.py)"),
        ("shop/bots.py", "shpo.bots", "shop.bots (shop/bots.py)"),
        ("shop/bots/__init__.py", "shop.bot", "shop.bots (shop/bots/__init__.py)"),
        ("shop/bots.py", "shop/bots.py", "shop.bots (shop/bots.py)"),
        ("shop/bots.py", "shop\\bots", "shop.bots (shop/bots.py)"),
        ("shop.py", "shop.py", "shop (shop.py)"),
        ("shop.py", ".shop", "shop (shop.py)"),
    ],
)
def test_missing_module_suggests_the_nearest_file(app: App, file: str, asked: str, meant: str) -> None:
    app(file, SHOP)
    told = load_error(asked)
    assert told.endswith(f"Did you mean {meant}?")
    assert ("is no module's name" in told) == (asked in ("shop/bots.py", "shop\\bots", ".shop"))


@pytest.mark.parametrize("name", ["", ".", "a b", "a-b", "a..b", "1a", "a:b"])
def test_invalid_module_names(app: App, name: str) -> None:
    assert load_error(name).startswith(f"{name!r} is no module's name. Write it as an import does")


def test_hidden_installed_and_deep_files_are_not_suggested(app: App) -> None:
    for file in (
        ".venv/shop.py",
        "venv/lib/python3.11/site-packages/shop.py",
        "node_modules/shop.py",
        "a/b/c/d/e/shop.py",
        "a-b/shop.py",
        "shop.txt",
        "shop-2.py",
        "__init__.py",
    ):
        app(file, SHOP)
    assert "Did you mean" not in load_error("shop")
    app("a/b/c/d/shop.py", SHOP)
    assert load_error("a.b.c.shop").endswith("Did you mean a.b.c.d.shop (a/b/c/d/shop.py)?")


def test_search_for_a_suggestion_is_bounded(app: App) -> None:
    app("zz/shop.py", SHOP)
    assert "Did you mean zz.shop" in load_error("zz.shopp")
    for number in range(2_001):
        app(f"data/{number}.txt", "")
    assert "Did you mean" not in load_error("zz.shopp")


def test_import_error_names_the_line_in_the_app(app: App) -> None:
    app("shop/__init__.py", "")
    file = app("shop/prices.py", "\n\ndef price():\n    return {}['apple']\n")
    app("shop/bot.py", "from shop.prices import price\nprice()\n")
    assert load_error("shop.bot") == f"shop.bot cannot be imported. KeyError: 'apple' ({file}, line 4)"


def test_error_in_a_library_names_the_apps_line(app: App) -> None:
    file = app("shop.py", "import json\nimport re\nre.compile(\n    '(')\n")
    told = load_error("shop")
    assert "rror: missing ), unterminated subpattern" in told
    assert told.endswith(f"({file}, line 3)")


def test_invalid_declaration_names_its_line(app: App) -> None:
    file = app("shop.py", "from server.workflows import tool\n\n@tool\ndef refund(amount: int): ...\n")
    told = load_error("shop")
    assert told.startswith("shop cannot be imported. TypeError: the tool refund needs a docstring")
    assert told.endswith(f"({file}, line 3)")


def test_error_in_a_neighbouring_module_names_its_line(app: App) -> None:
    file = app("prices.py", "\n1 / 0\n")
    app("bot.py", "import prices\n")
    assert load_error("bot") == f"bot cannot be imported. ZeroDivisionError: division by zero ({file}, line 2)"


def test_lines_of_the_server_are_not_the_apps(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started in the folder that holds the server's own source."""
    file = app("shop.py", "from server.workflows import tool\n\n@tool\ndef refund(amount: int): ...\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.chdir(ROOT)
    assert load_error("shop").endswith(f"({file}, line 3)")


def test_lines_of_an_installed_package_are_not_the_apps(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its virtual environment lies in the app's folder, as it often does."""
    library = app("venv/lib/site-packages/library.py", "def work():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(str(library.parent))
    file = app("shop.py", "import library\n\nlibrary.work()\n")
    assert load_error("shop").endswith(f"({file}, line 3)")


def test_lines_of_an_installed_app_are_the_apps(app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages"
    installed.mkdir()
    (installed / "elsewhere.py").write_text("\n\n1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(installed))
    assert load_error("elsewhere").endswith(f"({installed / 'elsewhere.py'}, line 3)")


def test_missing_library(app: App) -> None:
    file = app("shop.py", "import no_such_library\n")
    assert load_error("shop") == (
        f"shop cannot be imported. ModuleNotFoundError: No module named 'no_such_library' ({file}, line 1)"
    )


def test_missing_submodule(app: App) -> None:
    app("shop/__init__.py", "")
    file = app("shop/bot.py", "import shop.bot.part\n")
    told = load_error("shop.bot")
    assert told.startswith("shop.bot cannot be imported. ModuleNotFoundError: No module named 'shop.bot.part'")
    assert told.endswith(f"({file}, line 1)")


def test_module_not_found_error_without_a_name(app: App) -> None:
    file = app("shop.py", "raise ModuleNotFoundError\n")
    assert load_error("shop") == f"shop cannot be imported. ModuleNotFoundError ({file}, line 1)"


def test_syntax_error(app: App) -> None:
    file = app("shop.py", "x = 1\nif x\n")
    assert load_error("shop") == f"shop cannot be imported. SyntaxError: expected ':' ({file}, line 2)"


def test_raised_syntax_error(app: App) -> None:
    file = app("shop.py", "\nraise SyntaxError('not like this')\n")
    assert load_error("shop") == f"shop cannot be imported. SyntaxError: not like this ({file}, line 2)"


def test_file_with_invalid_encoding(app: App) -> None:
    app("shop.py", "").write_bytes(b"x = '\xff'\n")
    assert load_error("shop").startswith("shop cannot be imported. SyntaxError: ")


def test_system_exit_while_importing(app: App) -> None:
    file = app("shop.py", "import sys\nsys.exit('no key set')\n")
    assert load_error("shop") == f"shop cannot be imported. SystemExit: no key set ({file}, line 2)"


def test_error_without_a_line_of_the_app(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import hook fails before any line of the app ran."""

    class Broken:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name == "locked":
                raise PermissionError("locked away")

    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    assert load_error("locked") == "locked cannot be imported. PermissionError: locked away"


def test_cause_is_kept(app: App) -> None:
    app("shop.py", "1 / 0\n")
    with pytest.raises(BadModule) as caught:
        load(["shop"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_keyboard_interrupt_passes(app: App) -> None:
    app("shop.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load(["shop"])


def test_module_without_declarations_is_refused(app: App) -> None:
    app("shop.py", SHOP)
    app("empty.py", "import shop\n")
    assert load_error("shop", "empty").startswith("empty declares no workflow and no tool.")
