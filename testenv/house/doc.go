// Package house holds the sources to the rules of the house, as far as a machine can check them: who may import whom,
// sizes, documentation, and what tests must not do. It is nothing but tests.
package house
