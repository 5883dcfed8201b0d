--- The environment that points a client at the proxy: what `sallyport env` prints.
-- Pure: the arguments are all that it reads.
local M = {}

-- Both cases: curl reads http_proxy in lower case alone, Java tools and gcloud the upper, and each ignores the other.
local proxy_names = { "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY" }

-- Each *replaces* a client's own roots, so it names a bundle of the system's roots and our CA: a host that is
-- reached without the proxy must still verify.
local bundle_names = {
  "SSL_CERT_FILE",                       -- OpenSSL, Go, curl, Python's ssl
  "CURL_CA_BUNDLE",                      -- curl, older requests
  "REQUESTS_CA_BUNDLE",                  -- Python requests (it ignores SSL_CERT_FILE)
  "GIT_SSL_CAINFO",                      -- git on GnuTLS ignores SSL_CERT_FILE
  "AWS_CA_BUNDLE",                       -- boto3, aws
  "PIP_CERT",
  "CARGO_HTTP_CAINFO",
  "NIX_SSL_CERT_FILE",
  "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
  "npm_config_cafile",
  "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",  -- gcloud
  "DENO_CERT",
}

-- Never through the proxy: the machine itself. Its own services are not what credentials are for.
local NO_PROXY_ALWAYS = { "localhost", "127.0.0.1", "::1" }

--- For POSIX shells: whatever `value` holds, the shell reads it back as it is.
function M.quote(value)
  if value:find("^[%w_./:@%%+,=-]+$") then return value end
  return "'" .. value:gsub("'", "'\\''") .. "'"
end

--- Percent-encodes for the user part of a URL (RFC 3986 3.2.1).
local function userinfo(s)
  return (s:gsub("[^%w._~-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

--- What is there already stays, in its order; ours are added once. "*" would switch the proxy off: it goes.
-- A second answer says that it was there.
function M.no_proxy(existing)
  local list, seen, star = {}, {}, false
  local function add(item)
    if item == "*" then
      star = true
    elseif item ~= "" and not seen[item:lower()] then
      seen[item:lower()] = true
      list[#list + 1] = item
    end
  end
  for item in (existing or ""):gmatch("[^,%s]+") do add(item) end
  for _, item in ipairs(NO_PROXY_ALWAYS) do add(item) end
  return table.concat(list, ","), star
end

--- The address a client on this machine dials for a listener: a wildcard is not one.
function M.reach(listener)
  local host, port = listener:match("^(.+):(%d+)$")
  if host == "0.0.0.0" then host = "127.0.0.1" end
  if host == "[::]" then host = "[::1]" end
  return host .. ":" .. port
end

--- build{ proxy = "host:port", agent =, token =, ca = path, bundle = path, no_proxy = what is set already,
--  placeholders = { {name, value}… } } -> { {name, value}… } in a steady order.
function M.build(with)
  local url = ("http://%s:%s@%s"):format(userinfo(with.agent), userinfo(with.token), with.proxy)
  local list = {}
  local function set(name, value) list[#list + 1] = { name, value } end
  for _, name in ipairs(proxy_names) do
    set(name, url)
    set(name:lower(), url)
  end
  local no_proxy = M.no_proxy(with.no_proxy)
  set("NO_PROXY", no_proxy)
  set("no_proxy", no_proxy)
  set("NODE_USE_ENV_PROXY", "1")   -- Node's fetch reads no proxy variable without it (22.21 and later)
  for _, name in ipairs(bundle_names) do set(name, with.bundle) end
  set("NODE_EXTRA_CA_CERTS", with.ca)   -- adds to Node's roots, so the CA alone
  for _, p in ipairs(with.placeholders or {}) do set(p[1], p[2]) end
  return list
end

--- Lines for eval.
function M.shell(list)
  local lines = {}
  for i, v in ipairs(list) do lines[i] = ("export %s=%s\n"):format(v[1], M.quote(v[2])) end
  return table.concat(lines)
end

return M
