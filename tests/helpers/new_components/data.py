"""A data source in one file: `user_modules=[my_lab.data] data=counting`."""

from dataclasses import dataclass

from dpo_lab.data import DATA, Corpus, DataSource


@DATA.register
@dataclass
class CountingSource(DataSource):
    """Sentences that count, such as "3 4 5 6"; the first two numbers are the prompt. Every fifth sentence is held out."""

    name: str = "counting"
    num_sentences: int = 100
    num_words: int = 8

    def load(self):
        starts = range(self.num_sentences)
        sentences = [" ".join(str(start + i) for i in range(self.num_words)) for start in starts]
        prompts = [f"{start} {start + 1}" for start in starts]
        return Corpus(
            text=[sentence for start, sentence in zip(starts, sentences, strict=True) if start % 5],
            train_prompts=[prompt for start, prompt in zip(starts, prompts, strict=True) if start % 5],
            eval_prompts=prompts[::5],
            counts={"sentences": len(sentences)},
        )
