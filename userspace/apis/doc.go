// Package apis holds the API definitions of ASE: which APIs a gateway serves, how their clients are recognised, and what
// requests to them must look like. It reads ASE's JSON strictly, and finds the API of a request by host name and path.
//
// Values only: no goroutines and no clock. The shim and the detectors stand on it.
package apis
