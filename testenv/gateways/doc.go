// Package gateways runs nginx, HAProxy and Caddy with the configurations of deploy, only addresses, paths and (for busy
// machines) times to wait changed, in front of a backend that records what reaches it, and asks a real daemon. What is
// not in Debian is played by clients of its protocol.
package gateways
