"""What ``legato bench seam`` asks: twenty questions for a chat, twenty beginnings for a completion.

They want different kinds of text (facts, lists, code, JSON, verse, numbers, other languages, emoji,
odd punctuation), because a tokenizer cuts each kind in its own way.
"""

from __future__ import annotations

QUESTIONS = (
    "What is the capital of France, and what is it known for?",
    "Name the planets of the solar system as a numbered list.",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Give me a JSON object that describes a book: title, author, year, tags.",
    "Write a short poem about the sea at night.",
    "List the first ten prime numbers and add them up step by step.",
    "Réponds en français : pourquoi le ciel est-il bleu ?",
    "Write a message of congratulations with many emoji 🎉🚀🐙.",
    "Write a sentence that uses a semicolon, a dash, quotes and brackets.",
    "Explain what photosynthesis is to a child.",
    "Write an HTML page with a heading and a table of two rows.",
    "Antworte auf Deutsch: Wie backt man Brot?",
    "What is 12345 times 6789? Show the calculation.",
    "Write a shell script that counts the lines of all .txt files.",
    "Escribe tres frases en español sobre el otoño.",
    "Make a Markdown table of three animals and their speed.",
    "Write an SQL query that joins orders and customers.",
    "Tell me a joke about a cat and a computer.",
    "Write a dialogue between a baker and a customer, with stage directions.",
    "Translate 'Good morning, how are you?' into Chinese, Japanese and Russian.",
)

BEGINNINGS = (
    "The history of the city of Rome begins",
    "Ingredients for pancakes:\n\n- 2 cups of flour\n-",
    "def fibonacci(n):\n    ",
    '{"name": "Ada Lovelace", "born": 1815,',
    "Shall I compare thee to a summer's day?\nThou art",
    "The first prime numbers are 2, 3, 5, 7,",
    "La tour Eiffel est",
    "Happy birthday! 🎉🎂🥳 We wish you",
    '"Well," she said; "I never thought',
    "In physics, the speed of light is",
    "<html>\n<head>\n<title>My page</title>",
    "Die Hauptstadt von Deutschland ist",
    "1 + 1 = 2\n2 + 2 = 4\n3 + 3 =",
    '#!/bin/bash\nfor file in *.txt; do\n    echo "',
    "El otoño es una estación",
    "| Animal | Speed |\n| --- | --- |\n| Cheetah |",
    "SELECT name, COUNT(*) FROM orders",
    "Once upon a time there was a cat who",
    "ACT I\n\nSCENE I. A street.\n\nEnter BAKER.\n\nBAKER:",
    "Привет! Меня зовут",
)
