"""Between one that is good and one that is bad: which difference makes it bad?"""
