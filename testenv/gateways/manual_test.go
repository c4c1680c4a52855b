package gateways

import "fmt"

// What one writes from the manuals of nginx and HAProxy to block the clients of the corpus.

const nginxMaps = `daemon off; worker_processes 1; pid %[1]s/pid; error_log stderr;
events { worker_connections 512; }
http {
	access_log off; map_hash_bucket_size 128;
	client_body_temp_path %[1]s/tmp; proxy_temp_path %[1]s/tmp; fastcgi_temp_path %[1]s/tmp; uwsgi_temp_path %[1]s/tmp; scgi_temp_path %[1]s/tmp;
	map $cookie_JSESSIONID $bad_cookie { default 0; badcookie 1; }
	map $http_authorization $bad_token { default 0; "Bearer badtoken" 1; "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJl" 1; }
	map $http_authorization $good_token { default 0; "Bearer goodtoken" 1; }
	map $arg_access_token $bad_query_token { default 0; badtoken 1; }
	map $http_x_api_key $bad_key { default 0; badkey 1; }
	map $arg_api_key $bad_query_key { default 0; badquery 1; }
	map $remote_user $bad_user { default 0; badguy 1; }
	map $http_x_user $bad_header_user { default 0; badguy 1; }
	map "$good_token$bad_cookie$bad_token$bad_query_token$bad_key$bad_query_key$bad_user$bad_header_user" $bad { default 0; ~^0.*1 1; }
	server {
		listen %[2]s;
		if ($bad) { return 403; }
		location / { include /etc/nginx/proxy_params; proxy_pass http://%[3]s; }
	}
}
`

func startNginxMaps(r *rig) string {
	address, dir := freeAddress(r.t), r.dir+"/maps"
	r.write("maps/tmp/.keep", "")
	main := r.write("maps/nginx.conf", fmt.Sprintf(nginxMaps, dir, address, r.app))
	r.answers(r.start("nginx-maps", nil, "nginx", "-e", "stderr", "-c", main), address)
	return address
}

const haproxyACLs = `defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
frontend www
	bind %s
	acl good http_auth_bearer goodtoken
	acl bad req.cook(JSESSIONID) badcookie
	acl bad http_auth_bearer badtoken eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtYWxsb3J5In0.c2lnbmF0dXJl
	acl bad url_param(access_token) badtoken
	acl bad req.hdr(X-API-KEY) badkey
	acl bad url_param(api_key) badquery
	acl bad http_auth_user badguy
	acl bad req.hdr(x-user) badguy
	acl bad http_auth_bearer,jwt_payload_query('$.user') -m str badguy
	http-request deny if bad !good
	default_backend app
backend app
	server app1 %s
`

func startHAProxyACLs(r *rig) string {
	address := freeAddress(r.t)
	main := r.write("acls/haproxy.cfg", fmt.Sprintf(haproxyACLs, address, r.app))
	r.answers(r.start("haproxy-acls", nil, "haproxy", "-db", "-f", main), address)
	return address
}

func startInline(r *rig) string { return r.inline }
