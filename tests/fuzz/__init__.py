"""Arbitrary bytes for everything that reads what strangers write; see docs/development.md.

`subjects` says what is read and what must hold; `test_subjects` tries the corpus and Hypothesis's bytes on each;
`python -m tests.fuzz SUBJECT` has atheris look for more.
"""
