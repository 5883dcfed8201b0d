--- Records: what may stand in the store, checked before it goes there.
-- Every function that judges a text answers the canonical value, or nil and a sentence for the
-- person who typed it. Nothing here reads a secret: `assignment` says where one is to come from.
local M = {}

local NAME_MAX = 64          -- names appear in keys, logs and file names
local TEXT_MAX = 200         -- a line of a listing
local PATH_MAX = 1024        -- a prefix, not a document; far under the head limit
local TTL_MAX = 10 * 366 * 86400  -- longer than the CA lives

--- A name of a credential, bundle, agent or policy: it is part of store keys, so no "/" and no spaces.
function M.name(s)
  if s == "" then return nil, "a name cannot be empty" end
  if #s > NAME_MAX then return nil, "a name has at most " .. NAME_MAX .. " characters" end
  if not s:find("^[%w][%w._-]*$") then
    return nil, "a name is letters, digits, '.', '_' and '-', and begins with a letter or digit"
  end
  return s
end

-- Top labels under which nobody can buy a name (RFC 6761, RFC 6762, RFC 8375, ICANN's .internal; the rest is
-- common use): there a wildcard over one label is an operator's own network. Anywhere else it would hand the
-- credential to whoever registers a name.
local private_top = {
  test = true, example = true, invalid = true, localhost = true, ["local"] = true, internal = true,
  arpa = true, lan = true, home = true, corp = true, intranet = true, private = true,
}

--- Is it a name of this machine, or of one network and no other? Not the reserved ones, which nobody has.
function M.private_name(host)
  local top = host:match("[^.]*$")
  return top == host or private_top[top] and top ~= "test" and top ~= "example" and top ~= "invalid"
end

--- A host rule: an exact name or address, "*.example.com", or (for domain entries, `any`) "*".
function M.host(s, any)
  local http = require "http"
  if s:find("://", 1, true) or s:find("/", 1, true) then
    local bare = s:gsub("^%a[%w+.-]*://", ""):gsub("/.*$", "")
    return nil, ("a host is a name without scheme or path: %s (paths go in --path)"):format(bare)
  end
  if s == "*" then
    if any then return "*" end
    return nil, "'*' alone would give the credential to every host: name one, or *.example.com"
  end
  if s:find("$", 1, true) then
    if any then return nil, "a domain entry has no variables: name the host" end
    return require("variables").host_rule(s, function(text) return M.host(text) end)
  end
  local star, rest = s:match("^(%*%.)(.+)$")
  rest = rest or s
  if rest:find("*", 1, true) then
    return nil, "'*' stands only for the leftmost labels: *.example.com"
  end
  if not star and rest:find("^[^:]+:%d+$") then
    return nil, ("a port goes in --port: --host %s --port %s"):format(rest:match("^(.+):(%d+)$"))
  end
  local host, is_ip = http.canonical_host(rest)
  if not host then return nil, ("%s is not a host name: %s"):format(s, is_ip or "malformed") end
  if not star then return host end
  if is_ip then
    return nil, "an address has no wildcard: name it whole (--address CIDR is for where names may lead)"
  end
  if not host:find(".", 1, true) and not private_top[host] then
    return nil, ("*.%s would cover names that anybody can register: name the domain too"):format(host)
  end
  return "*." .. host
end

function M.port(s)
  local n = s:find("^%d+$") and #s <= 5 and math.tointeger(tonumber(s))
  if not n or n < 1 or n > 65535 then return nil, "a port is a number from 1 to 65535" end
  return n
end

local common_methods = { "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET" }

--- A method, in upper case; WEBSOCKET stands for the upgrade. A third answer is advice.
function M.method(s)
  local m = s:upper()
  if m == "TRACE" or m == "CONNECT" then
    return nil, m .. " never carries a credential and is never passed on"
  end
  if not m:find("^[A-Z][A-Z-]*$") or #m > 32 then return nil, "a method is a word such as GET or POST" end
  local near = M.nearest(m, common_methods)
  if near ~= m and near then return m, nil, ("%s is not a common method; did you mean %s?"):format(m, near) end
  return m
end

--- A path prefix. It is compared with what a server may read, so it is written plainly: decoded, no dot segments. A slash
-- within a segment is "%2F".
function M.path(s)
  if s:sub(1, 1) ~= "/" then return nil, "a path begins with '/': /v1 covers /v1 and /v1/…" end
  if #s > PATH_MAX then return nil, "a path has at most " .. PATH_MAX .. " bytes" end
  if s:find("[%z\1-\32\127]") then return nil, "a path has no spaces or control bytes" end
  if s:find("[?#]") then return nil, "a path has no query and no fragment" end
  if s:find("*", 1, true) then return nil, "a path is a prefix and needs no '*': /v1 covers /v1 and /v1/…" end
  local plain, encoded = s:gsub("%%2[Ff]", "/")
  if plain:find("[%%\\;]") then
    return nil, "a path is written decoded: no '%', '\\' or ';' (%2F alone, for a slash within a segment)"
  end
  if encoded > 0 and (plain:find("//", 1, true) or s:find("%%2[Ff]$")) then
    return nil, "a %2F in a path stands between two names of one segment: /projects/acme%2Fsite"
  end
  if plain:find("//", 1, true) then return nil, "a path has no '//'" end
  if (plain .. "/"):find("/%.%.?/") then return nil, "a path has no '.' or '..' segment" end
  if s:find("[\128-\255]") then
    -- Clients send such letters percent-encoded, so that a server may read the path in two ways: ambiguous_path.
    return nil, "a path has ASCII letters alone: others are sent encoded, and no prefix could decide for certain"
  end
  return (s:gsub("%%2f", "%%2F"))
end

--- An address or a range, as "10.0.0.0/8"; a bare address means itself alone.
function M.cidr(s)
  local addr = require "addr"
  if not s:find("/", 1, true) then
    local one = addr.parse(s)
    if one then return one .. (one:find(":", 1, true) and "/128" or "/32") end
  end
  local c = addr.cidr(s)
  if not c then return nil, "an address range looks like 10.0.0.0/8, 192.168.1.7 or fd00::/8" end
  return c
end

function M.header_name(s)
  local http = require "http"
  if not http.field_name_ok(s) then return nil, "that is not a header name" end
  local lower = s:lower()
  -- The core writes these itself (DESIGN, "What happens to a request", step 6).
  if lower == "host" or lower == "content-length" or lower == "transfer-encoding" or lower == "connection"
    or lower == "expect" or lower == "upgrade" or lower == "te" or lower == "trailer" or lower == "keep-alive"
    or lower:find("^proxy%-") or lower:find("^x%-sallyport%-") then
    return nil, s .. " is written by the proxy itself"
  end
  return lower
end

-- ---- quantities ----------------------------------------------------------------------------------

local seconds_in = { s = 1, m = 60, h = 3600, d = 86400, w = 7 * 86400 }

--- "90s", "15m", "24h", "7d", "2w" -> seconds.
function M.duration(s)
  local n, unit = s:match("^(%d+)([smhdw])$")
  local total = n and #n <= 9 and math.tointeger(tonumber(n)) * seconds_in[unit]
  if not total then return nil, "a time is a number with s, m, h, d or w: 90s, 24h, 7d" end
  if total < 1 then return nil, "that time is nothing: 1s is the shortest" end
  if total > TTL_MAX then return nil, "that is longer than ten years" end
  return total
end

--- Seconds in the largest unit that says them whole.
function M.span(seconds)
  for _, unit in ipairs { "d", "h", "m" } do
    if seconds % seconds_in[unit] == 0 then return ("%d%s"):format(seconds // seconds_in[unit], unit) end
  end
  return ("%ds"):format(seconds)
end

local bytes_in = { [""] = 1, k = 1 << 10, m = 1 << 20, g = 1 << 30 }

--- "64m", "1g" -> bytes.
function M.size(s)
  local n, unit = s:lower():match("^(%d+)([kmg]?)i?b?$")
  if not n or #n > 12 then return nil, "a size is a number with k, m or g: 256m" end
  return math.tointeger(tonumber(n)) * bytes_in[unit]
end

local MEMORY_MIN = 16 << 20  -- a few hundred connections

function M.memory(s)
  local n, why = M.size(s)
  if n and n < MEMORY_MIN then return nil, "memory is at least 16m" end
  return n, why
end

function M.show_size(n)
  if n % (1 << 20) == 0 then return ("%dm"):format(n >> 20) end
  return n % 1024 == 0 and ("%dk"):format(n >> 10) or tostring(n)
end

--- Bytes: what body-max is, and what it may be. The most leaves room for another one among the bodies that a worker holds
-- (proxy.c, REQ_BODIES_MAX).
M.BODY_MAX, M.BODY_MOST = 16 << 20, 32 << 20
local BODY_LEAST = 64 << 10

function M.body_max(s)
  local n, why = M.size(s)
  if n and (n < BODY_LEAST or n > M.BODY_MOST) then
    return nil, ("body-max is from %s to %s"):format(M.show_size(BODY_LEAST), M.show_size(M.BODY_MOST))
  end
  return n, why
end

local LOG_MIN, LOG_MAX = 64 << 10, 1 << 40

function M.log_size(s)
  local n, why = M.size(s)
  if n and (n < LOG_MIN or n > LOG_MAX) then return nil, "log-size is at least 64k, at most 1024g" end
  return n, why
end

local function choice(...)
  local words = { ... }
  return function(s)
    for _, w in ipairs(words) do
      if s == w then return s end
    end
    return nil, "that is " .. table.concat(words, " or ")
  end
end

local function count(min, max, what)
  return function(s)
    local n = s:find("^%d+$") and #s <= 12 and math.tointeger(tonumber(s))
    if not n or n < min or n > max then return nil, ("%s is a number from %d to %d"):format(what, min, max) end
    return n
  end
end

--- A listener: "127.0.0.1:7080", "[::1]:7080" (for TLS perhaps with ,name=HOST), "unix:/PATH[,mode=0660][,group=NAME]",
-- "fd:3" (inherited, LISTEN_FDS), each perhaps with =AGENT
-- -> { address =, port =, host = | path =, mode =, group = | fd =; agent =, text = as it is kept } | nil, why
function M.listener(s)
  local at, rest = s:match("^([^,=]*)(.*)$")
  local path, fd, spec, why = at:match("^unix:(.*)$"), at:match("^fd:(%d%d?)$"), { text = at }, nil
  if path and (not path:find("^/") or path:find("%c") or path:find("/$")) then
    return nil, "a Unix socket is named from the root, without , and =: unix:/run/sallyport/proxy.sock"
  elseif path and #path > 107 then
    return nil, "the path of a Unix socket has at most 107 bytes"
  elseif path then
    spec.path, spec.host = path, "localhost"   -- whom a request for our own pages names
  elseif fd then
    spec.fd = tonumber(fd)
  else
    spec.text, why = M.address_port(at)
    if not spec.text then return nil, why end
    local address, port = spec.text:match("^%[?(.-)%]?:(%d+)$")
    spec.address, spec.port = address, math.tointeger(tonumber(port))
  end
  while rest:find("^,") do
    local name, value, left = rest:match("^,(%l+)=([^,=]+)(.*)$")
    if path and name == "mode" and value:find("^0?[0-7][0-7][0-7]$") then
      spec.mode = tonumber(value, 8) & 438   -- nobody executes a socket
    elseif path and name == "group" and M.group_name(value) then
      spec.group = value
    elseif spec.address and name == "name" and require("http").canonical_host(value) then
      value = require("http").canonical_host(value)
      spec.host = value
    else
      return nil, path and "what may stand behind a Unix socket's path is ,mode=0660 and ,group=NAME, then =AGENT"
        or "what may stand behind an address is ,name=HOST, the name in the certificate of listen-tls, then =AGENT"
    end
    spec.text, rest = ("%s,%s=%s"):format(spec.text, name, value), left
  end
  spec.agent = rest:match("^=(.+)$")
  if rest ~= "" and not (spec.agent and M.name(spec.agent)) then
    return nil, "what stands behind = is an agent's name: 127.0.0.1:7090=claude"
  end
  spec.text = spec.text .. rest
  return spec
end

--- One for redirected connections: "ADDR:PORT[=AGENT]".
function M.transparent(s)
  local spec, why = M.listener(s)
  if spec and (not spec.address or spec.host) then return nil, "redirected connections come to a TCP address: 0.0.0.0:7081, or 10.0.5.1:7081=claude" end
  return spec and spec.text, why
end

--- One for TLS: "ADDR:PORT[,name=HOST][=AGENT]".
function M.listen_tls(s)
  local spec, why = M.listener(s)
  if spec and not spec.address then return nil, "TLS to the proxy is for a TCP address: 10.0.0.5:7443, or 10.0.0.5:7443,name=box.example.org" end
  return spec and spec.text, why
end

--- The same as one text, as it is kept.
function M.listen(s)
  local spec, why = M.listener(s)
  if s:find "^[./]" then why = "a Unix socket is named as unix:/run/sallyport/proxy.sock" end
  if spec and spec.host and spec.address then return nil, "name= is for listen-tls: it is the name in the certificate" end
  return spec and spec.text, why
end

--- "HOST:PORT" with an address before the last colon; [::1]:7080 for IPv6.
function M.address_port(s)
  local host, port = s:match("^%[([%x:.]+)%]:(%d+)$")
  if not host then host, port = s:match("^([^:]+):(%d+)$") end
  if not host then return nil, "an address to listen on looks like 127.0.0.1:7080 or [::1]:7080" end
  local a = require("addr").parse(host)
  if not a then return nil, host .. " is not an address: 127.0.0.1:7080, [::1]:7080, 0.0.0.0:7080" end
  local n = #port <= 5 and math.tointeger(tonumber(port))
  if not n or n > 65535 then return nil, "a port is a number from 0 to 65535 (0 picks one)" end
  return a:find(":", 1, true) and ("[%s]:%d"):format(a, n) or ("%s:%d"):format(a, n)
end

-- curl's --connect-to: HOST:PORT:ADDR:PORT; IPv6 in brackets; an empty part stands for any, or for the same.
-- -> { host, port, host, port }, hosts canonical, ports as they stand | nil
function M.connect_parts(s)
  local parts = {}
  for part in (s .. ":"):gsub("%[([%x:.]*)%]", function(a) return (a:gsub(":", "\1")) end):gmatch("([^:]*):") do
    parts[#parts + 1] = part:gsub("\1", ":")
  end
  if #parts ~= 4 or s:find("%c") then return nil end
  for i, part in ipairs(parts) do
    if part ~= "" and i % 2 == 0 then
      if not M.port(part) then return nil end
    elseif part ~= "" then
      parts[i] = require("http").canonical_host(part)
      if not parts[i] then return nil end
    end
  end
  return parts
end

--- The same as one text, as it is kept.
function M.connect_to(s)
  local parts = M.connect_parts(s)
  if not parts then return nil, "it is HOST:PORT:ADDR:PORT, as in curl: api.example.com:443:127.0.0.1:8443" end
  for i, part in ipairs(parts) do
    if part:find(":", 1, true) then parts[i] = "[" .. part .. "]" end
  end
  return table.concat(parts, ":")
end

--- "http://[user@]host:port" -> { user = as typed | nil, host = canonical, port }, whether a password stood in it | nil, why.
-- An error repeats nothing of the text: somebody may have typed a password.
function M.proxy_parts(s)
  local scheme, rest = s:match("^(%a[%w+.-]*)://(.*)$")
  rest = (rest or s):gsub("/+$", "")
  scheme = (scheme or "http"):lower()
  if scheme == "https" then return nil, "TLS with the proxy itself is not supported: its address begins with http://" end
  if scheme ~= "http" then return nil, "it is an HTTP proxy, which CONNECT is asked of: http://proxy.corp.example:3128" end
  local who, authority = rest:match("^(.*)@([^@]*)$")
  local user, password = (who or ""):match("^([^:]*):(.*)$")
  user = user or who
  local url = require("http").parse_url("http://" .. (authority or rest))
  local port = (authority or rest):match(":(%d+)$")
  if not url or (authority or rest):find("[/?]") then return nil, "it is http://host:port, or http://user@host:port" end
  if not port then return nil, "it names its port: http://proxy.corp.example:3128" end
  if user and (user:find("[%c%s]") or #user > 255 or not utf8.len(user)) then return nil, "its user name has a byte that none has" end
  return { user = user, host = url.host, port = url.port }, password ~= nil and password ~= ""
end

--- The same as one text, as it is kept. A password is a secret, and no part of it.
function M.upstream_proxy(s)
  local parts, password = M.proxy_parts(s)
  if not parts then return nil, password end
  if password then
    return nil, "its password is a secret and never comes from the command line (the shell keeps it): leave it out of the address"
  end
  return ("http://%s%s:%d"):format(parts.user and parts.user .. "@" or "", require("errors").host(parts.host), parts.port)
end

function M.no_proxy(s)
  local text, why = require("route").entry(s)
  return text, not text and why or nil
end

function M.switch(s)
  local on = { on = true, yes = true, ["true"] = true, ["1"] = true }
  local off = { off = true, no = true, ["false"] = true, ["0"] = true }
  if on[s] then return true end
  if off[s] then return false end
  return nil, "that is on or off"
end

--- A file, named from the root.
function M.folder_file(s)
  if not s:find("^/.*[^/]$") or s:find("%c") or not utf8.len(s) then
    return nil, "a file is named from the root: /var/log/sallyport/requests.jsonl"
  end
  return s
end

function M.group_name(s)
  if not s:find("^[%w_][%w_.-]*%$?$") or #s > 64 then return nil, "that is a group's name or number" end
  return s
end

function M.folder(s)
  if s:sub(1, 1) ~= "/" or s:find("%c") or not utf8.len(s) then return nil, "a folder is named from the root: /usr/local/lib/sallyport" end
  return s
end

--- An OpenID provider's name (OpenID Connect Discovery 1.0, 3): kept letter by letter, for that is how it is compared.
function M.issuer(s)
  local url = require("http").parse_url(s)
  if not url or s:find("[?#@%s]") then return nil, "it is https://accounts.example.com, as the provider writes it" end
  if url.scheme == "http" and url.host ~= "localhost" and url.host ~= "127.0.0.1" then return nil, "it begins with https://" end
  return s
end

--- How the world reaches the door: a scheme, a host and perhaps a port; the issuer's name (RFC 8414 2), so nothing behind.
function M.public_url(s)
  local url = require("http").parse_url((s:gsub("/$", "")))
  local host = url and require("errors").host(url.host)
  local usual = url and url.port == (url.scheme == "https" and 443 or 80)
  if not url or s:find("[?#@]") or (s:gsub("/$", "")):find("[^/]/[^/]") or s:find("%s") then return nil, "it is https://box.example.org, without a path" end
  if url.scheme == "http" and host ~= "localhost" and host ~= "127.0.0.1" and host ~= "[::1]" then
    return nil, "it begins with https://; http is for this machine alone"
  end
  return ("%s://%s%s"):format(url.scheme, host, usual and "" or ":" .. url.port)
end

--- Where the page of `serve --admin` is: an address and port, or a Unix socket.
function M.page_listener(s)
  if not s:find("^unix:") then return M.address_port(s) end
  local spec, why = M.listener(s)
  if not spec then return nil, why end
  if spec.agent then return nil, "the page is no agent's" end
  return s
end

--- Is it reached from this machine alone? text: as page_listener answers.
function M.is_local(text)
  local host = text:match("^%[([%x:.]+)%]:%d+$") or text:match("^([%d.]+):%d+$")
  return text:find("^unix:") ~= nil or host == "::1" or host ~= nil and host:find("^127%.") ~= nil
end

--- What a webhook is told of (lua/webhook.lua).
M.webhook_events = { "proposal", "approval", "refusals", "credential" }

--- A webhook's address as it is shown: its origin, for what stands behind it is a key to many of them -> origin, the rest | nil, why
function M.webhook(s)
  local url = require("http").parse_url(s)
  local origin, rest = s:match("^([^/]+//[^/?]+)(.*)$")
  if not url or url.scheme ~= "https" or not origin or s:find("[#%s%c]") or origin:find("@", 1, true) then return nil, "it is https://HOST/…" end
  return origin, (rest:sub(1, 1) == "/" and "" or "/") .. rest
end

-- ---- settings ------------------------------------------------------------------------------------

--- How long a request is held for a person: clients give up sooner or later.
function M.approval_wait(s)
  local n, why = M.duration(s)
  if n and n > 90 then return nil, "that is at most 90s" end
  return n, why
end

--- A short text that a person gives for other people: a label, a note.
function M.text(s)
  if #s > TEXT_MAX or s:find("[%z\1-\31\127]") or not utf8.len(s) then
    return nil, ("that is a text of at most %d bytes without control bytes"):format(TEXT_MAX)
  end
  return s
end

--- What commands and server share. `key` is the member in overrides and in the table that `settings` answers.
M.setting_list = {
  { name = "listen", arg = "ADDR:PORT", many = true, check = M.listen, default = { "127.0.0.1:7080" },
    help = "where agents reach the proxy; port 0 picks one; unix:PATH; ADDR:PORT=AGENT is that agent's (help doors)" },
  { name = "listen-tls", arg = "ADDR:PORT", many = true, check = M.listen_tls, default = {},
    help = "the same over TLS, for agents elsewhere; ADDR:PORT,name=HOST says the certificate's name (help doors)" },
  { name = "transparent", arg = "ADDR:PORT", many = true, check = M.transparent, default = {},
    help = "for connections that the kernel redirects; sallyport nft prints rules (help doors)" },
  { name = "listen-cert", arg = "FILE", check = M.text, path = true,
    help = "the certificate of listen-tls and its chain, PEM; one of our CA when not set" },
  { name = "listen-key", arg = "FILE", check = M.text, path = true,
    help = "the key of that certificate, PEM" },
  { name = "workers", arg = "N", check = count(1, 64, "workers"),
    help = "processes that serve; one per core when not set" },
  { name = "upstream-ca", arg = "FILE", many = true, file = true, default = {},
    help = "further roots to trust upstream, PEM" },
  { name = "connect-to", arg = "HOST:PORT:ADDR:PORT", many = true, check = M.connect_to, default = {},
    help = "dial elsewhere for a host, as in curl" },
  { name = "upstream-proxy", arg = "http://[USER@]HOST:PORT", check = M.upstream_proxy, secret = "password",
    help = "go upstream through this proxy (CONNECT); its password is asked for, or: password=@FILE" },
  { name = "upstream-no-proxy", arg = "HOST", many = true, check = M.no_proxy, default = {},
    help = "reached without that proxy: host (and below), .suffix, CIDR, host:port, *" },
  { name = "allow-address", arg = "CIDR", many = true, check = M.cidr, default = {},
    help = "opens the address guard for every host: for tests" },
  { name = "memory", arg = "SIZE", check = M.memory, show = M.show_size,
    help = "for connections; a quarter of RAM, at most 512m, when not set" },
  { name = "body-max", arg = "SIZE", check = M.body_max, show = M.show_size, default = M.BODY_MAX,
    help = "a body that a credential reads whole has at most so much; others stream" },
  { name = "seal-max", arg = "TIME", check = M.duration, show = M.span, default = 86400,
    help = "no sealed text opens for longer: sallyport help sealed" },
  { name = "approval-wait", arg = "TIME", check = M.approval_wait, show = M.span, default = 45,
    help = "a request about which a person is asked is held for so long: sallyport help rules" },
  { name = "dial-timeout", arg = "TIME", check = M.duration, show = M.span, default = 10,
    help = "to reach an upstream, all its addresses together" },
  { name = "answer-timeout", arg = "TIME", check = M.duration, show = M.span, default = 900,
    help = "until an upstream begins to answer; a credential may have its own" },
  { name = "idle-timeout", arg = "TIME", check = M.duration, show = M.span, default = 3600,
    help = "silence on streams, WebSockets, tunnels; a credential may have its own" },
  { name = "upstream-http", arg = "auto|1|2", check = choice("auto", "1", "2"), default = "auto",
    help = "HTTP/2 towards upstreams: where the client speaks it, too; never; wherever they take it: sallyport help http2" },
  { name = "upstream-tls", arg = "auto|bearssl|openssl", check = choice("auto", "bearssl", "openssl"), default = "auto",
    help = "the engine towards upstreams: the system's OpenSSL where BearSSL cannot, as for TLS 1.3; never; always: sallyport help network" },
  { name = "agent-tls", arg = "bearssl|openssl", check = choice("bearssl", "openssl"), default = "bearssl",
    help = "the engine towards agents: the system's OpenSSL has TLS 1.3 and takes less of the processor, and more memory: sallyport help network" },
  { name = "log", arg = "file|memory", check = choice("file", "memory"), default = "file",
    help = "where the request log lies: memory spares flash, and forgets at a restart of the machine" },
  { name = "log-file", arg = "FILE", check = M.folder_file, place = true,
    help = "the request log, JSON lines; log/requests.jsonl in the data directory when not set" },
  { name = "log-size", arg = "SIZE", check = M.log_size, show = M.show_size, default = 64 << 20,
    help = "the request log's files have at most so much; one in memory at most 8m" },
  { name = "log-age", arg = "TIME", check = M.duration, show = M.span, default = 30 * 86400,
    help = "the request log keeps nothing older" },
  { name = "log-group", arg = "GROUP", check = M.group_name, group = true,
    help = "may read the request log's files, to ship them" },
  { name = "public", arg = "DIR", check = M.folder, public = true,
    help = "folder with the CA for clients; beside the data directory, or in it, when not set" },
  { name = "helpers", arg = "DIR", check = M.folder,
    help = "folder of the programs that credentials of type command may run" },
  { name = "public-url", arg = "URL", check = M.public_url,
    help = "how the world reaches the door; the issuer of its tokens: sallyport help door" },
  { name = "gateway", arg = "ADDR:PORT", many = true, check = M.address_port, default = {},
    help = "where the world reaches the door, as public-url says" },
  { name = "gateway-cert", arg = "FILE", check = M.text, path = true,
    help = "the door's certificate and its chain, PEM; read again when the file changes" },
  { name = "gateway-key", arg = "FILE", check = M.text, path = true,
    help = "the key of that certificate, PEM" },
  { name = "gateway-workers", arg = "N", check = count(1, 16, "gateway-workers"), default = 1,
    help = "processes that serve the door" },
  { name = "gateway-origins", arg = "ORIGIN", many = true, check = M.public_url, default = {},
    help = "web pages beside public-url's that may call the door: https://app.example.org" },
  { name = "trusted-proxy", arg = "CIDR", many = true, check = M.cidr, default = { "127.0.0.0/8", "::1/128" },
    help = "reverse proxies, which alone may speak plain HTTP to the door" },
  { name = "login-oidc", arg = "ISSUER", check = M.issuer, login = true,
    help = "people sign in at the door with this OpenID provider: client_id=ID client_secret=@FILE; sallyport help door" },
  { name = "webhook", arg = "URL", check = M.webhook, hook = true,
    help = "is told what needs a person, signed: secret=@FILE, target=@FILE, address=CIDR; sallyport help messages" },
  { name = "webhook-format", arg = "json|slack|ntfy", check = choice("json", "slack", "ntfy"), default = "json",
    help = "how: JSON, as Slack takes it, or as ntfy does" },
  { name = "webhook-events", arg = "EVENT", many = true, check = choice(table.unpack(M.webhook_events)), default = M.webhook_events,
    help = "of what: " .. table.concat(M.webhook_events, ", ") },
  { name = "admin", arg = "ADDR:PORT|unix:PATH", many = true, check = M.page_listener, default = {},
    help = "the page for operators (user add --operator); beyond this machine with TLS alone: sallyport help page" },
  { name = "admin-url", arg = "URL", check = M.public_url,
    help = "how browsers reach that page, where it is not the address itself: https://box.lan:7443" },
  { name = "admin-cert", arg = "FILE", check = M.text, path = true,
    help = "the page's certificate and its chain, PEM" },
  { name = "admin-key", arg = "FILE", check = M.text, path = true,
    help = "the key of that certificate, PEM" },
  { name = "echo", arg = "on|off", check = M.switch, default = true,
    help = "answer echo.sallyport.test inside the proxy, for the demo credential" },
}
for _, s in ipairs(M.setting_list) do s.key = s.name:gsub("-", "_") end

function M.setting(name)
  for _, s in ipairs(M.setting_list) do
    if s.name == name or s.key == name then return s end
  end
end

--- Every setting with its default: `overrides` (by key) before the store before the default; and a list of the names of
-- those that are refused, because they were changed on the disk: they are as in `before`, else at their default.
function M.settings(overrides, before)
  local store = require "store"
  local all, refused = {}, {}
  for _, s in ipairs(M.setting_list) do
    local value = overrides and overrides[s.key]
    if value == nil then
      local kept, why = store.get("meta", "set/" .. s.name)
      if kept then value = kept.value end
      if why == "damaged" then
        refused[#refused + 1] = s.name
        value = before and before[s.key]
      end
    end
    if value == nil then value = s.default end
    all[s.key] = value
  end
  -- Which record has the proxy's password; its version tells a new one.
  local flag = overrides and overrides.upstream_proxy
  all.upstream_proxy_at = flag and "run/upstream-proxy" or "set/upstream-proxy"
  local kept = all.upstream_proxy and store.peek("meta", all.upstream_proxy_at)
  all.upstream_proxy_version = kept and kept.version
  return all, refused
end

-- Host, port and what the proxy is shown (RFC 7617 2): a password goes to the address that it was kept with alone.
local function proxy_for_host(all)
  local parts = all.upstream_proxy and M.proxy_parts(all.upstream_proxy)
  if not parts then return {} end
  local kept = require("store").get("meta", all.upstream_proxy_at)
  local password = kept and kept.value == all.upstream_proxy and kept.secrets and kept.secrets.password
  if not parts.user and not password then return { host = parts.host, port = parts.port } end
  local user = (parts.user or ""):gsub("%%(%x%x)", function(x) return string.char(tonumber(x, 16)) end)
  local secret = require "secret"
  return { host = parts.host, port = parts.port, authorization = secret.base64(secret.template("${user}:${password}",
    { user = user, password = password or require("secret.core").of("") })) }
end

M.system_roots = require "roots"

--- Of all the settings, those that C acts on: for host.configure.
function M.for_host(all)
  local to = {}
  for _, s in ipairs(all.connect_to or {}) do
    local parts = M.connect_parts(s)
    if parts then to[#to + 1] = table.concat(parts, " ") .. "\n" end
  end
  local roots = { M.system_roots() }
  for _, file in ipairs(all.upstream_ca or {}) do roots[#roots + 1] = file end
  if #roots == 0 then roots = nil end
  return {
    connect_to = table.concat(to), allow_address = all.allow_address, trusted_proxy = all.trusted_proxy, upstream_proxy = proxy_for_host(all),
    upstream_tls = ({ auto = 0, bearssl = 1, openssl = 2 })[all.upstream_tls], agent_tls = all.agent_tls == "openssl" and 2 or 1, upstream_ca = all.upstream_ca, roots = roots, memory = all.memory,
    dial_timeout = all.dial_timeout, answer_timeout = all.answer_timeout, idle_timeout = all.idle_timeout,
  }
end

-- ---- fields --------------------------------------------------------------------------------------

--- "field=VALUE" -> { name =, key = (of a map or header), from = "literal"|"file"|"stdin"|"env", value =, text = }.
-- `text` is VALUE as it was typed: a plain field takes it literally.
-- It never repeats the value in an error: it may be a secret that somebody typed where it does not belong.
function M.assignment(s)
  local left, value = s:match("^([^=]*)=(.*)$")
  if not left then return nil, "a field is given as FIELD=VALUE" end
  local name, key = left:match("^([%a_][%w_]*)%.(.+)$")
  name = name or left
  if not name:find("^[%a_][%w_-]*$") or left:find("[%z\1-\32\127]") or not utf8.len(left) then
    return nil, "a field is given as FIELD=VALUE"
  end
  local a = { name = name, key = key, from = "literal", value = value, text = value }
  if value == "-" then
    a.from, a.value = "stdin", nil
  elseif value:sub(1, 1) == "@" then
    a.from, a.value = "file", value:sub(2)
    if a.value == "" then return nil, left .. "=@ needs the name of a file" end
  elseif value:sub(1, 4) == "env:" then
    a.from, a.value = "env", value:sub(5)
    if not a.value:find("^[%a_][%w_]*$") then return nil, left .. "=env: needs the name of a variable" end
  end
  return a
end

--- The text of a plain field as the value that its type wants.
function M.field_value(spec, text)
  local bad = text:find("[%z\1-\31\127]")
  if bad and spec.type ~= "pem" and spec.type ~= "document" then
    return nil, spec.name .. " has a control byte in it"
  end
  if not utf8.len(text) then return nil, spec.name .. " is not UTF-8" end
  local kind = spec.type or "string"
  if kind == "integer" then
    local n = text:find("^-?%d+$") and math.tointeger(tonumber(text))
    if not n then return nil, spec.name .. " is a whole number" end
    return n
  elseif kind == "boolean" then
    local b = M.switch(text)
    if b == nil then return nil, spec.name .. " is true or false" end
    return b
  elseif kind == "list" then
    local list = {}
    for item in text:gmatch("[^%s,]+") do list[#list + 1] = item end
    return list
  elseif kind == "enum" then
    for _, v in ipairs(spec.values or {}) do
      if v == text then return text end
    end
    local near = M.nearest(text, spec.values or {})
    return nil, ("%s is one of %s%s"):format(spec.name, table.concat(spec.values or {}, ", "),
      near and ("; did you mean %s?"):format(near) or "")
  end
  return text
end

--- What becomes of calls that answer with further credentials? (lua/mint.lua, lua/seal.lua) "deny" is the old word for "refuse".
function M.mint(s)
  if s == "deny" then return "refuse" end
  if s == "allow" or s == "refuse" or s == "seal" then return s end
  return nil, "mint is refuse, seal or allow: whether calls that make further credentials go out with this one, and whether "
    .. "what they answer is sealed"
end

function M.tls(s)
  if s == "legacy" or s == "strict" then return s end
  return nil, "tls is strict or legacy: whether an old server's CN counts as its name, and CBC ciphers will do"
end

--- Names that the agent may send beside the credential, comma or space between them; none: a list without any.
function M.keep(s)
  local list = {}
  for name in s:gmatch("[^%s,]+") do
    if #name > NAME_MAX or not name:find("^[%w_.$%[%]-]+$") then return nil, "that is a list of names of headers and parameters" end
    if name:lower() == "authorization" then return nil, "Authorization is where keys go: a credential always takes off the agent's own" end
    list[#list + 1] = name:lower()
  end
  return list
end

--- When is the credential attached? nil, why
function M.attach(s)
  if s == "always" or s == "placeholder" or s == "placeholder:own" then return s end
  return nil, "attach is always, placeholder (where its placeholder stands, or no key at all; another key is refused) or "
    .. "placeholder:own (another key passes, and nothing is attached)"
end

--- Whether a field is read as a secret: it says so, or it is a document that is taken apart in C.
function M.is_secret(spec) return spec.secret == true or spec.split ~= nil end

-- ---- placeholders --------------------------------------------------------------------------------

-- The shapes of real keys are the presets' (presets.shape_for): some clients look at the prefix or the length before
-- they send one. {N} is N random letters and digits; {N:class} draws from one of `classes`.
M.SHAPE_DEFAULT = "sp_ph_{32}"   -- where no preset knows one

local classes = { [""] = true, hex = true, digit = true, alpha = true, upper = true, url = true }  -- their letters: proxy.c
local SHAPE_RANDOM_MIN = 15   -- characters: two agents' placeholders must never be equal by chance
local SHAPE_MAX = 256

--- A template is made of what may stand in any header or environment, and says how many random characters it has.
function M.shape(template)
  local random = 0
  local rest = template:gsub("{(%d+):?(%a*)}", function(n, class)
    if not classes[class] or #n > 3 then return "\0" end
    random = random + tonumber(n)
    return ""
  end)
  if rest:find("[^%w._:/+=@~-]") then
    return nil, "a placeholder is letters, digits and . _ : / + = @ ~ -, with "
      .. "{N} or {N:hex}, {N:digit}, {N:alpha}, {N:upper}, {N:url}"
  end
  if random < SHAPE_RANDOM_MIN then
    return nil, ("a placeholder needs at least %d random characters: %s{32}"):format(SHAPE_RANDOM_MIN, rest)
  end
  if random + #rest > SHAPE_MAX then return nil, "a placeholder has at most " .. SHAPE_MAX .. " characters" end
  return template, random
end

-- text, where its longest random part ends | nil: that is no template.
local function derived(template, label)
  if not M.shape(template) then return nil end
  return require("store").placeholder(template, label)
end

local function own_label(agent, name) return "placeholder/" .. agent .. "/" .. name end

--- What this agent holds in the credential's place; nil where the credential names no variable.
-- Derived, so nothing is kept, and each agent's is its own: one that turns up elsewhere says whose it was.
function M.placeholder(agent, cred)
  if not cred.env then return nil end
  return (derived(cred.placeholder or M.SHAPE_DEFAULT, own_label(agent, cred.name)))
end

--- All that this agent holds for the credential: { { env, text, field }… }. `field`: the one that it stands for; nil: the
-- credential as a whole. First its own variable's, then `env_more`'s.
function M.held(agent, cred)
  local text = M.placeholder(agent, cred)
  if not text then return {} end
  local list, more = { { env = cred.env, text = text } }, {}
  for env in pairs(cred.env_more or {}) do more[#more + 1] = env end
  table.sort(more)
  for _, env in ipairs(more) do
    list[#list + 1] = { env = env, text = derived(cred.env_more[env], own_label(agent, cred.name) .. "/" .. env) }
  end
  return list
end

--- What the texts of `held` are drawn from, where the same may stand for many credentials:
-- { { template, what their labels end in }… }
function M.shapes(cred)
  local list = {}
  if cred.env and M.shape(cred.placeholder or M.SHAPE_DEFAULT) then
    list[1] = { cred.placeholder or M.SHAPE_DEFAULT, "" }
    for env, template in pairs(cred.env_more or {}) do list[#list + 1] = { template, "/" .. env } end
  end
  return list
end

--- Adds the texts of `held` to a set of request.known: ten thousand when an agent comes.
function M.learn(set, agent, name, shapes)
  for _, s in ipairs(shapes) do set:add(name, s[1], own_label(agent, ""), s[2]) end
end

--- What stands for one part of a credential in this agent's sandbox: a client secret, a token. See stand_in.lua.
function M.stand_in(agent, name, part, template)
  return (derived(template or M.SHAPE_DEFAULT, "stand-in/" .. agent .. "/" .. name .. "/" .. part))
end

-- Variables that steer the proxy, the loader or the shell: a placeholder there would break the client or worse.
local env_taken = {
  "^PATH$", "^HOME$", "^IFS$", "^SHELL$", "^USER$", "^ENV$", "^BASH_ENV$", "^LD_", "^DYLD_", "^NODE_OPTIONS$",
  "^PYTHON", "^PERL5", "^RUBYOPT$", "^GIT_SSH", "^GIT_SSL", "_PROXY$", "_CA_BUNDLE$", "^SSL_CERT_", "^NODE_EXTRA_CA",
  "^NODE_USE_ENV", "^PIP_CERT$", "^CARGO_HTTP_CAINFO$", "^NIX_SSL", "^GRPC_DEFAULT_SSL", "^CLOUDSDK_CORE_CUSTOM_CA",
  "^DENO_CERT$", "^SALLYPORT_", "^NPM_CONFIG_CAFILE$",
}

function M.env_name(s)
  if not s:find("^[%a_][%w_]*$") or #s > NAME_MAX then
    return nil, "a variable's name is letters, digits and '_': GH_TOKEN"
  end
  for _, p in ipairs(env_taken) do
    if s:upper():find(p) then return nil, s .. " is not a place for a placeholder" end
  end
  return s
end

-- ---- near names ----------------------------------------------------------------------------------

-- Edits between two short words; two letters swapped count once.
local function distance(a, b)
  local before, last, row = nil, {}, nil
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

--- The one of `words` that was probably meant; nil when none is near.
function M.nearest(word, words)
  if #word > NAME_MAX then return nil end
  local best, best_d
  for _, w in ipairs(words) do
    local d = distance(word:lower(), w:lower())
    if #word >= 3 and w:sub(1, #word):lower() == word:lower() then d = math.min(d, 1) end
    if not best_d or d < best_d then best, best_d = w, d end
  end
  if best_d and best_d <= math.min(2, #word // 3) then return best end
end

--- Do both hold the same, member by member?
function M.same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  for k, v in pairs(a) do
    if not M.same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

return M
