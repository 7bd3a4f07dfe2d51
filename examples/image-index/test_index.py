"""The format, tried by Python alone: python3 -m unittest."""

import unittest
from pathlib import Path

import index

SUM = "a" * 64
HEAD = "Index: 1\n\n"
GOOD = f"Name: a\nArchitecture: x86_64\nFile: a.tar 1 {SUM}\n"


class Index(unittest.TestCase):
    def test_what_is_published_is_read(self):
        entries = index.parse((Path(__file__).parent / "testdata/INDEX").read_bytes())
        self.assertEqual([entry.architecture for entry in entries], ["x86_64", "aarch64"])
        self.assertEqual(entries[0].aliases, ["smallest", "tiny/1"])
        self.assertEqual((entries[0].size, entries[0].created), (2560, 1_793_491_200))

    def test_what_is_wrong_is_told_with_its_line(self):
        for text, line, why in [
            ("", 1, "Index: 1"),
            ("\x00\x01", 1, "Field: value"),
            ("Index: 2\n", 1, "version '2'"),
            (GOOD, 1, "Index: 1"),
            (HEAD + "nonsense\n", 3, "Field: value"),
            (HEAD + GOOD + "Colour: red\n", 6, "'Colour'"),
            (HEAD + GOOD + "Name: b\n", 6, "second time"),
            (HEAD + GOOD + "\n" + GOOD, 7, "second image 'a'"),
            (HEAD + "Name: a\n", 3, "without Architecture"),
            (HEAD + GOOD.replace("a.tar", "../a.tar"), 5, "path of a file"),
            (HEAD + GOOD.replace("a.tar", "/etc/passwd"), 5, "path of a file"),
            (HEAD + GOOD.replace("a.tar", "http://elsewhere/a"), 5, "path of a file"),
            (HEAD + GOOD.replace("a.tar", "a%2f..%2fb"), 5, "path of a file"),
            (HEAD + GOOD.replace(" 1 ", " -1 "), 5, "size of a file"),
            (HEAD + GOOD.replace(" 1 ", " " + "9" * 4000 + " "), 5, "size of a file"),
            (HEAD + GOOD.replace(SUM, SUM.upper()), 5, "SHA-256"),
            (HEAD + GOOD.replace("File: a.tar", "File:"), 5, "a path, a size"),
            (HEAD + GOOD.replace("Name: a", "Name: a b"), 3, "name of an image"),
            (HEAD + GOOD + "Aliases: " + ",".join("abc" for _ in range(65)), 6, "65 aliases"),
            (HEAD + GOOD + "Created: yesterday\n", 6, "no date"),
            (HEAD + GOOD + "Description: \x1b[31mred\n", 6, "can't be printed"),
            (HEAD + "Name: " + "a" * 5000, 3, "4096 characters"),
        ]:
            with self.subTest(text=text[:60]), self.assertRaises(index.Wrong) as wrong:
                index.parse(text.encode())
            told = str(wrong.exception)
            self.assertIn(why, told)
            self.assertTrue(told.startswith(f"line {line} "), told)
            self.assertLess(len(told), 200)

    def test_what_is_no_text_is_told_with_its_line(self):
        with self.assertRaisesRegex(index.Wrong, "line 3 is no text"):
            index.parse(HEAD.encode() + b"\xff\xfe")

    def test_there_is_a_bound(self):
        many = "\n".join(GOOD.replace("Name: a", f"Name: a{number}") for number in range(index.MAX_IMAGES + 1))
        with self.assertRaisesRegex(index.Wrong, "one image more"):
            index.parse((HEAD + many).encode())


if __name__ == "__main__":
    unittest.main()
