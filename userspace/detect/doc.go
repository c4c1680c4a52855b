// Package detect recognises requests that no honest client sends: decoys, methods, protocols and content types that the
// API does not take, a missing mandatory token. It says which answer to send and what to blacklist.
//
// An API's definition is enforced (wrong requests get its error answer, decoys theirs) whether or not
// enable_ase_detected_attack is on; only then is anybody blacklisted. Of what is blacklisted:
//
//	invalid protocol, method, content type | the token, else the cookie, else the address
//	decoy                                  | the address
//	missing token                          | the address
//
// A token or cookie only if the caller vouches for it ([Request.Credentials]): what anybody can send is not learned from, or
// somebody could have others blocked. Then the address is taken, which harms only the sender.
package detect
