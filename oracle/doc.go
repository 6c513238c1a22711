// Package oracle holds the tests that say whether two engines make the same clone: of random processes, and of real programs.
//
// The same snapshot is cloned by each engine of ORACLE_ENGINES ("criu,template" unless set). The pictures that /proc shows, what
// a clone tells of itself, and how it behaves must be the same, and the same as those of the original but for a list of known
// differences, each with its reason. ORACLE_SEEDS says how many random processes are made ("20"), or which ("7-9");
// ORACLE_ONLY and ORACLE_NOT take lists of features with commas, to cut a failing seed down; ORACLE_KEEP names a directory for
// what was seen of each container.
package oracle
