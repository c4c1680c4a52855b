package apis

import "testing"

func TestFind(t *testing.T) {
	root := &API{ID: "root", Hostname: "*", URL: "/"}
	shop := &API{ID: "shop", Hostname: "shop.com", URL: "/shop"}
	cart := &API{ID: "cart", Hostname: "shop.com", URL: "/shop/cart"}
	anyCart := &API{ID: "any", Hostname: "*", URL: "/shop/cart/x"}
	tests := []struct {
		set        *Set
		host, path string
		want       *API
		miss       Miss
	}{
		{NewSet(root, shop, cart), "shop.com", "/shop/cart/1", cart, Found},
		{NewSet(root, shop, cart), "shop.com", "/shop/cart", cart, Found},
		{NewSet(root, shop, cart), "shop.com", "/shop/cartoon", shop, Found},
		{NewSet(root, shop, cart, anyCart), "shop.com", "/shop/cart/x", cart, Found},
		{NewSet(root, shop, cart, anyCart), "other.com", "/shop/cart/x", anyCart, Found},
		{NewSet(root, shop), "shop.com", "/shopping", root, Found},
		{NewSet(shop), "shop.com", "/shopping", nil, UnknownAPI},
		{NewSet(shop, anyCart), "other.com", "/", nil, UnknownAPI},
		{NewSet(shop), "other.com", "/shop", nil, UnknownHost},
		{nil, "shop.com", "/", nil, UnknownHost},
	}
	for _, test := range tests {
		got, miss := test.set.Find(test.host, test.path)
		if got != test.want || miss != test.miss {
			t.Errorf("%s%s: got %v, %v, want %v, %v", test.host, test.path, got, miss, test.want, test.miss)
		}
	}
}
