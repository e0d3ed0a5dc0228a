"""See `benchmarks.peers.run_comparison`.

It is imported late, because the callers' process imports this module too.
"""

if __name__ == "__main__":
    from benchmarks.peers.run_comparison import main

    main()
