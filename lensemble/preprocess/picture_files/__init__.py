"""What a picture file contains, read from its bytes before any pixel is decoded.

A decoder's work is limited by what the file declares: its pixels, and how often it goes over them.
So each format has a module that counts what costs time, refuses a file that declares too much, and
leaves out everything that does not change the pixels of the first picture: texts, colour profiles,
further frames and pages. Decoders would read all of that, some of it in quadratic time.
"""
