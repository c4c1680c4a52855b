// Package front holds what the endpoints that a gateway asks have in common: who may ask ([Listen]), how a request is
// put together again from what the gateway says of it ([Asked.Fill]), and how it is judged and counted ([Judge]).
//
// A front never passes what it cannot tell: a question that leaves something out, and a request on which the judge
// fails, are answered as blocked and counted as undecided.
package front
