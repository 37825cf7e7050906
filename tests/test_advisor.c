/* The library as its users meet it: contexts that open whatever the store is like, products that are right on every path,
 * refusals that say what was wrong, and decisions that are the same every time, for every thread, and as advised.
 *
 * Decisions are tested against knowledge made by hand (a model that knows nothing but launches, rows of our own), so that no
 * test depends on how fast this machine is. test_ladder.c's worth of cases is in test_knowledge.c; here the store is at most
 * broken. Runs under ThreadSanitizer too. */
