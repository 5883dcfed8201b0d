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
  "PIP_CERT",
  "CARGO_HTTP_CAINFO",
  "NIX_SSL_CERT_FILE",
  "npm_config_cafile",
  "YARN_HTTPS_CA_FILE_PATH",             -- yarn 3 and 4
  "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",  -- gcloud
  "DENO_CERT",
  "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",    -- gRPC's core (Python, C++, PHP, Ruby) and grpc-js: Google Cloud's SDKs, OTLP
}

-- boto3 and aws. Go's old SDK takes it for an order to change a transport that it does not know, and ends
-- (rclone 1.60), so it is there only where an AWS credential is.
local AWS_BUNDLE = "AWS_CA_BUNDLE"

-- Of these, a client that finds more than one takes another than it was meant to: only the first is set.
local rivals = {
  { "GEMINI_API_KEY", "GOOGLE_API_KEY" },   -- google-genai warns, and takes the second
}

-- Never through the proxy: the machine itself. Its own services are not what credentials are for.
local NO_PROXY_ALWAYS = { "localhost", "127.0.0.1", "::1" }

-- What no shell touches. "=" is not first: zsh would look for a program of that name.
local function is_plain(value) return value:find("^[%w_./:@%%+,-][%w_./:@%%+,=-]*$") ~= nil end

--- For POSIX shells: whatever `value` holds, the shell reads it back as it is.
function M.quote(value)
  if is_plain(value) then return value end
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

--- The variable that is set already and would be mistaken for this one; nil: there is none. taken: a set of names.
function M.rival(name, taken)
  for _, group in ipairs(rivals) do
    local own, other
    for _, member in ipairs(group) do
      if member == name then own = true elseif taken[member] then other = member end
    end
    if own and other then return other end
  end
end

--- The proxy as clients name it: with the agent's name and token in it. address: "host:port", or "https://host:port".
-- token: nil where the address is the agent's.
function M.proxy_url(agent, token, address)
  local scheme, rest = address:match("^(https?://)(.*)$")
  if not token then return scheme and address or "http://" .. address end
  return ("%s%s:%s@%s"):format(scheme or "http://", userinfo(agent), userinfo(token), rest or address)
end

--- build{ proxy = "host:port", agent =, token = | nil: the address is the agent's, ca = path, bundle = path, no_proxy = what is set already,
--  vault = its first bundle | nil, aws = is there an AWS credential?, placeholders = { {name, value}… } } -> { {name, value}… } in a steady order.
function M.build(with)
  local url = M.proxy_url(with.agent, with.token, with.proxy)
  local list = {}
  local function set(name, value) list[#list + 1] = { name, value } end
  for _, name in ipairs(proxy_names) do
    set(name, url)
    set(name:lower(), url)
  end
  set("YARN_HTTP_PROXY", url)      -- yarn 2 and later read neither form of the others
  set("YARN_HTTPS_PROXY", url)
  local no_proxy = M.no_proxy(with.no_proxy)
  set("NO_PROXY", no_proxy)
  set("no_proxy", no_proxy)
  set("NODE_USE_ENV_PROXY", "1")   -- Node's fetch reads no proxy variable without it (22.21 and later)
  for _, name in ipairs(bundle_names) do set(name, with.bundle) end
  if with.aws then set(AWS_BUNDLE, with.bundle) end
  set("NODE_EXTRA_CA_CERTS", with.ca)   -- adds to Node's roots, so the CA alone
  set("AGENT_VAULT_ADDR", M.proxy_url(with.agent, nil, with.proxy))     -- where skill files written for Agent Vault ask for hosts
  if with.token then set("AGENT_VAULT_TOKEN", with.token) end
  if with.vault then set("AGENT_VAULT_VAULT", with.vault) end
  for _, p in ipairs(with.placeholders or {}) do set(p[1], p[2]) end
  return list
end

-- ---- how it is written ---------------------------------------------------------------------------

-- Unicode's noncharacters: systemd takes a text with one for no text.
local function is_noncharacter(c) return c >= 0xFDD0 and c <= 0xFDEF or c & 0xFFFE == 0xFFFE end

local function not_systemd(value)
  if value:find("[%z\1-\8\11-\31\127]") then return "a control byte" end
  if not utf8.len(value) then return "bytes that are not UTF-8" end
  for _, c in utf8.codes(value) do
    if is_noncharacter(c) then return "a character that is none" end
  end
end

local DOCKER_LINE_MAX = 65535   -- bytes: bufio.MaxScanTokenSize, less one

-- A line of Docker's file is NAME=VALUE as it stands: there are no quotes, and a CR before its end is dropped.
local function not_docker(value, name)
  if value:find("[\r\n]") then return "a line break" end
  if not utf8.len(value) then return "bytes that are not UTF-8" end
  if #name + 1 + #value > DOCKER_LINE_MAX then return "more than 64 KiB" end
end

local function not_json(value) return not utf8.len(value) and "bytes that are not UTF-8" or nil end

-- Each format: a line for a variable, and what a value has that no line could hold (nil: nothing).
local formats = {
  sh = { line = function(name, value) return ("export %s=%s\n"):format(name, M.quote(value)) end },
  -- In single quotes fish knows \' and \\ alone.
  fish = { line = function(name, value)
    return ("set -gx %s %s\n"):format(name, is_plain(value) and value or "'" .. value:gsub("[\\']", "\\%0") .. "'")
  end },
  docker = { refuse = not_docker, line = function(name, value) return ("%s=%s\n"):format(name, value) end },
  -- systemd.exec(5), EnvironmentFile=: within double quotes a backslash makes these four, and a line break stays one.
  systemd = { refuse = not_systemd, line = function(name, value)
    return ('%s="%s"\n'):format(name, (value:gsub('["\\`$]', "\\%0")))
  end },
  json = { refuse = not_json },
}
M.formats = { "sh", "fish", "docker", "systemd", "json" }

--- The first variable whose value the format cannot hold, and what is in it; nil: all fit.
function M.unfit(list, format)
  local refuse = formats[format].refuse
  for _, v in ipairs(refuse and list or {}) do
    local why = refuse(v[2], v[1])
    if why then return v[1], why end
  end
end

--- The text of a list in any of M.formats but json.
function M.text(list, format)
  local lines = {}
  for i, v in ipairs(list) do lines[i] = formats[format].line(v[1], v[2]) end
  return table.concat(lines)
end

return M
