package shim

type keyring struct{}

func (k *keyring) verify(token string, now int64) bool { return false }
