"""Make, fetch or find the corpus of a profile and print the folder it is in.

python book/make_corpus.py PROFILE CORPUS
"""

import sys

from osteo_utils.corpus import open_corpus
from osteo_utils.profiles import get_profile

if __name__ == "__main__":
    profile, corpus = sys.argv[1:]
    print(open_corpus(corpus, get_profile(profile)))
