"""Text that tokenizers get wrong: prose, code, many scripts, emoji, runs of spaces and newlines."""

from __future__ import annotations

PROSE = [
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure you've heard it's 'twas; we'll, they'd, I'M SURE YOU'VE, rock'n'roll and 'quoted' words.",
    "It cost $1,234,567.89 in 1999—or was it 2001? 3.14159265358979, 1e-10, 0xDEADBEEF, 12 345 678.",
    'Dr. Smith (née Jones) said: "No… never!" – and left; e.g., i.e., etc.',
    "According to ",
    " leading space",
    "trailing space ",
    "The three prim",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "CamelCaseIdentifier snake_case_name SCREAMING_CASE kebab-case iPhone eBay McDonald USA's",
]

CODE = [
    "def f(x: int) -> int:\n    if x > 0:\n        return x ** 2\n\treturn -x\n",
    '#include <stdio.h>\nint main(void) {\n\tprintf("%d\\n", 42);\n\treturn 0;\n}\n',
    "for (let i = 0; i < n; i++) { a[i] = b[i]?.c ?? `t${i}`; } // done\r\n",
    "SELECT * FROM t WHERE a='x' AND b<>3;--\r\n\r\n",
    '<html><body class="x"><p>a &amp; b</p></body></html>',
    '{"name": "", "list": [1, 2.5, -3e8, null, true]}',
    "x=1;;y+=2!!==>>=<<=||&&^^~~``@@##$$%%",
]

SCRIPTS = [
    "Voix ambiguë d'un cœur qui au zéphyr préfère les jattes de kiwis.",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg. STRASSE ß ẞ",
    "Съешь же ещё этих мягких французских булок да выпей чаю",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "我能吞下玻璃而不伤身体。今天是2024年10月5日，天气很好！",
    "いろはにほへと ちりぬるを。カタカナとひらがなと漢字と１２３",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ١٢٣٤٥",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश १२३",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน",
    "நான் கண்ணாடி சாப்பிடுவேன் ಕನ್ನಡ తెలుగు മലയാളം",
    "Tiếng Việt: Con sói nâu nhảy qua người không bình thường",
    "Ὅμηρος ᾠδή ﬁ ﬀ Å Ⅷ ½ ² ™ ℵ 𝒜𝓑𝔠 ｆｕｌｌ",
    "e\u0301 a\u030a n\u0303 o\u0308 combining; \u1100\u1161 jamo",
    "ǅ ǈ ƺ ა ᏸ 𐐀 𞤀 ſ 'ſ I'ſ K ͅ",
]

EMOJI = [
    "😀😃 🇫🇷🇯🇵 👨‍👩‍👧‍👦 👍🏽 ❤️ ☕️ 1️⃣ 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙 🫠",
    "∑∫√∞ ≠ ≤ → ← ⇒ ■□●○ ☺ © ® € £ ¥ § ¶ † ‡ • … ‰ ′ ″",
]

SPACES = [
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n\n\n\n\n",
    "\t",
    "\t\t\tx",
    " \n \n\n \t\n  x\n",
    "a  b   c    d     e      f       g        h",
    "line\r\nline\rline\n\r\n",
    "x" + " " * 17 + "y" + " " * 40 + "z" + "\n" * 35 + "w",
    "nbsp\u00a0thin\u2009zero\u200bideographic\u3000line\u2028para\u2029nel\u0085bom\ufefffigure\u2007",
    "trailing newline\n",
    "  \n\n  indented\n\n\n    more\n",
]

ODD = [
    "\x00\x01\x02\x7f\x80\x9f control",
    "private \ue000\uf8ff unassigned \U000e0fff \U0010ffff \ufffe\uffff replacement \ufffd",
    "▁ is a lower block ▁▁ and Ġ is a letter, <0x0A> is text",
    "a" * 100,
    "=" * 80,
    "-" * 79 + "+" + "-" * 13,
    "ha" * 50 + "h",
    "0123456789" * 5,
    "...!!!???,,,;;;:::'''\"\"\"((()))[[[]]]{{{}}}",
]

SPECIAL = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "half <|im_end and <|im_end|>x<|endoftext|> y",
    " <|im_start|>  <|im_end|> \n<eos>\n\n<unused7> <table><tr></tr></table>",
    "<s>[INST] Hi [/INST] Hello</s><unk>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
]

TEXTS = PROSE + CODE + SCRIPTS + EMOJI + SPACES + ODD
ALL_TEXTS = TEXTS + SPECIAL
