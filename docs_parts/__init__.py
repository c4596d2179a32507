"""What is made for the documentation: pictures, generated tables, the recording.

``python -m docs_parts`` writes all of it; tests compare.
"""
