"""The auditor's questions: which bytes made this model, do they still stand, and where did an image go?"""
