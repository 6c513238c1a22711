// Package deptest holds the tests of the rules that the source itself must keep: which package may know of which, and
// that tests skip only through probes. The import rules are also in the linter's configuration, for those who see them
// there first; the tests hold where no linter is installed.
package deptest
