"""See `benchmarks.peers.run`, imported late: the callers' process imports this module too."""

if __name__ == "__main__":
    from benchmarks.peers.run import main

    main()
