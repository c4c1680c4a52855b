// Package storetest holds every implementation of a store to the same promises. It is used from tests only.
package storetest
