"""Findings -> the formats of other tools: terminal text, SARIF, GitHub, JUnit."""
