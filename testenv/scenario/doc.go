// Package scenario runs the real daemon, the real command line and real packets against each other in throw-away
// networks: what is promised about crashes, full disks, vanishing interfaces and stubborn clients is tried here.
// It is nothing but tests.
package scenario
