--- sallyport mcp import: an .mcp.json with secrets in it becomes credentials, and a file without any.
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"

local FILE_MAX = 1 << 20
local SERVERS_MAX = 200
local HEADERS_MAX = 64       -- of a server; an upstream takes a hundred at most

local function any_of(text, words)
  for _, word in ipairs(words) do
    if text:find(word) then return true end
  end
  return false
end

-- Headers and query parameters whose value is a secret however it is written.
local secret_words = { "auth", "cookie", "key", "token", "secret", "passw", "credential", "session", "signature" }

-- A text that nobody made up: twenty letters and digits on end, or a UUID. Not the name of a variable.
local function random(text)
  text = text:gsub("%${[^}]*}", " ")
  for run in text:gmatch("[%w_]+") do
    if #run >= 20 and run:find("%d") and run:find("%a") then return true end
  end
  return text:find("%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x") ~= nil
end

local function secret_variable(name, value)
  return value ~= "" and any_of(name:upper(), { "KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "_PASS$",
    "_PWD$", "_PAT$", "AUTH$", "CREDENTIAL" })
end

-- What may be a secret in a program's argument or variable, where it cannot be taken out by its name.
local function suspect(text)
  local lower = text:lower()
  return text:find("://[^/]*:[^/]*@") ~= nil or lower:find("bearer%s+[^%s$]") ~= nil
    or lower:find("key[=:]%s*[^%s$]") ~= nil or lower:find("token[=:]%s*[^%s$]") ~= nil
    or lower:find("secret[=:]%s*[^%s$]") ~= nil or lower:find("password[=:]%s*[^%s$]") ~= nil
    or any_of(text, { "^sk%-", "^ghp_", "^gho_", "^ghs_", "^github_pat_", "^glpat%-", "^xox[abprs]%-", "^AKIA%u", "^eyJ" })
end

-- A header is one too if a variable stands in it, or what it holds looks like one.
local function secret_header(name, value)
  return value ~= "" and (any_of(name:lower(), secret_words) or value:find("${", 1, true) ~= nil or suspect(value) or random(value)
    or any_of(value:lower(), { "^bearer%s", "^basic%s", "^token%s" }))
end

-- An object of the file: { } where it is absent; what else it may be ends the command.
local function object(server, given, member)
  local value = given[member]
  if value == nil or value == require("json").null then return {} end
  for name in pairs(type(value) == "table" and value or { 1 }) do
    if type(name) ~= "string" then
      report.fail(("%s: its %s is not an object"):format(report.clean(server):sub(1, 60), member))
    end
  end
  return value
end

-- ---- variables -----------------------------------------------------------------------------------

-- The parts of a text: strings, and { name, default, raw = as it stands } for ${NAME}, ${NAME:-default} and ${env:NAME}.
local function parts_of(text)
  local out, at = {}, 1
  while true do
    local from, to, name, rest = text:find("%${([%a_][%w_]*)([^}]*)}", at)
    if not from then break end
    local raw = text:sub(from, to)
    if name == "env" and rest:find("^:[%a_][%w_]*$") then name, rest = rest:sub(2), "" end
    if rest ~= "" and rest:sub(1, 2) ~= ":-" then
      out[#out + 1] = text:sub(at, to)
    else
      if from > at then out[#out + 1] = text:sub(at, from - 1) end
      out[#out + 1] = { name, rest ~= "" and rest:sub(3) or nil, raw = raw }
    end
    at = to + 1
  end
  if at <= #text then out[#out + 1] = text:sub(at) end
  return out
end

local function unset(var, what, why)
  report.fail(("%s: the variable %s is not set%s"):format(what, var, why or ""), ("%s=… sallyport mcp import …"):format(var))
end

-- Clear text stays on this machine.
local function in_clear(target)
  return target.scheme == "http" and target.host ~= "localhost" and target.host ~= "::1" and not target.host:find("^127%.")
end

local function origin_of(target)
  local usual = target.port == (target.scheme == "http" and 80 or 443)
  return ("%s://%s%s"):format(target.scheme, target.host:find(":", 1, true) and "[" .. target.host .. "]" or target.host,
    usual and "" or ":" .. target.port)
end

-- --take NAME=HOST, where HOST may name a port, and http:// where it is to go in clear.
local function takes_of(list)
  local out, http = {}, require "http"
  for _, text in ipairs(list or {}) do
    local name, scheme, rest = text:match("^([%a_][%w_]*)=(.+)$"), nil, nil
    if name then scheme, rest = text:match("=(https?)://([^/]+)/?$") end
    local host, port = http.authority(rest or text:match("=(.+)$") or "")
    host = name and host and http.canonical_host(host)
    if not host or host:find("*", 1, true) then
      report.usage("--take names a variable and the exact host that may get it: --take GH_TOKEN=api.example.com")
    end
    out[#out + 1] = { name = name, host = host, port = port, scheme = scheme }
  end
  return out
end

-- A file that an agent may write does not decide which of the operator's values go where: the operator names the variable
-- and has seen the host, by --take or at the terminal. Else the command ends here, before anything is kept.
-- `as`: the address with its variables, where the value is a part of the address and not to be shown.
local function may_take(ctx, opt, var, target, what, as)
  local origin, elsewhere = report.clean(as or origin_of(target)), nil
  for _, t in ipairs(opt.takes) do
    if t.name == var then
      if t.host == target.host and (not t.port or t.port == target.port) and (t.scheme or "https") == target.scheme
        or t.host == target.host and not t.scheme and target.scheme == "http" and not in_clear(target) then
        return
      end
      elsewhere = t.host
    end
  end
  local key = var .. " " .. origin
  if opt.agreed[key] then return end
  if elsewhere == target.host then elsewhere = in_clear(target) and "https" or "another port" end
  local text = ("%s: the file wants the value of your variable %s for %s"):format(report.clean(what), var, origin)
  if not elsewhere and ctx.host.isatty(0) then
    ctx.note(text .. ".")
    opt.agreed[key] = report.ask(ctx, "Is it to go there?")
    if opt.agreed[key] then return end
    report.fail("nothing was kept", "take that server out of the file, and import the rest")
  end
  report.fail(elsewhere and ("%s; --take lets it go to %s alone"):format(text, elsewhere) or text,
    ("if that is right: --take %s=%s"):format(var, as and "HOST, the host that comes of it" or (origin:gsub("^https://", ""))))
end

-- A secret: variables are read as handles; what is not set is asked for.
local function secret_text(ctx, opt, text, what, target)
  local secret, out = require "secret.core", nil
  for _, part in ipairs(parts_of(text)) do
    local piece
    if type(part) == "string" then
      piece = secret.of(part)
    else
      piece = ctx.host.read_secret("env", part[1], {})
      if piece then may_take(ctx, opt, part[1], target, what) end
      if not piece and part[2] then piece = secret.of(part[2]) end
      if not piece and ctx.host.isatty(0) then
        piece = ctx.host.tty_secret(("%s, %s, for %s (not shown): "):format(report.clean(what), part[1],
          report.clean(origin_of(target))), {})
      end
      if not piece then unset(part[1], what, ", and there is no terminal to ask on") end
    end
    out = out and out .. piece or piece
  end
  out = out or secret.of("")
  -- What a header could not carry is refused here. It is a handle: C looks, as at a token of an answer.
  local built, document = pcall(require("json").build, { value = out })
  local seen = built and secret.expect(document, { value = "secret" })
  if not (seen and seen.value) or text:find("^%s") or text:find("%s$") then
    report.fail(("%s: its value is empty, or has line breaks, control bytes, no UTF-8 or a space at an end"):format(what))
  end
  return out
end

-- The address of a server: as the new file has it, as it is parsed, the secrets in it, and the variables of its host whose
-- values are in `sample`. In the new file every variable stays one. A variable that is named like a secret, a parameter of
-- the query that is, and a part of the path that looks like one stand there for a placeholder.
local function address_of(ctx, server, text)
  local shown, sample, secrets, in_host, raws = "", "", {}, {}, {}
  for _, part in ipairs(parts_of(text)) do
    if type(part) == "table" then
      local name, default = part[1], part[2]
      local secret = secret_variable(name, "x") or default and (suspect(default) or random(default))
      raws[#raws + 1] = secret and "${" .. name .. "}" or part.raw
      shown = ("%s${\1%d}"):format(shown, #raws)
      if sample:find("^%a+://[^/?#]+[/?#]") then
        if secret then secrets[#secrets + 1], secrets[name] = not secrets[name] and name or nil, true end
        sample = sample .. "\1"
      else
        local value = ctx.host.getenv(name)
        if value and value ~= "" then in_host[#in_host + 1] = name else value = default end
        if not value then unset(name, server) end
        sample = sample .. value:gsub("\1", " ")
      end
    else
      part = part:gsub("\1", " ")
      shown, sample = shown .. part, sample .. part
    end
  end
  local prefix = server:upper():gsub("[^%w]", "_"):gsub("^%d", "_%0")
  local function path_parts(address, put)
    local origin, path, rest = address:match("^(%a+://[^/?#]*)(/[^?#]*)(.*)$")
    if not origin then origin, path, rest = address:match("^(%${\1%d+}[^/?#]*)(/[^?#]*)(.*)$") end
    if not origin then return address end
    return origin .. path:gsub("[^/]+", function(part) return random(part) and put() or nil end) .. rest
  end
  local in_path = 0
  shown = path_parts(shown, function()
    in_path = in_path + 1
    local var = ("%s_URL_KEY%s"):format(prefix, in_path > 1 and in_path or "")
    secrets[#secrets + 1] = var
    return "${" .. var .. "}"
  end)
  sample = path_parts(sample, function() return "\1" end)
  shown = shown:gsub("([?&])([^=&#]+)=([^&#]+)", function(sep, name, value)
    if value:find("^%${") or not (any_of(name:lower(), secret_words) or suspect(value) or random(value)) then return nil end
    local var = (prefix .. "_" .. name:upper():gsub("[^%w]", "_")):sub(1, 100)
    secrets[#secrets + 1] = var
    return ("%s%s=${%s}"):format(sep, name, var)
  end)
  return shown:gsub("%${\1(%d+)}", function(i) return raws[tonumber(i)] end), sample, secrets, in_host
end

-- ---- one server ----------------------------------------------------------------------------------

local function credential_name(server)
  local name = server:gsub("[^%w._-]", "-"):gsub("^[^%w]+", "")
  return records.name(name ~= "" and name:sub(1, 60) or "mcp")
end

-- The record for an http or sse server whose headers hold secrets.
local function record_of(ctx, server, target, given, opt)
  local plain = {
    name = credential_name(server), type = "api_key", enabled = true, bundles = opt.bundle or { "default" },
    hosts = { target.host }, ports = { target.port }, plain_http = target.scheme == "http" or nil, fields = {},
  }
  local secrets, kept, names = {}, {}, {}
  local headers = object(server, given, "headers")
  for name in pairs(headers) do names[#names + 1] = name end
  table.sort(names)
  if #names > HEADERS_MAX then report.fail(("%s: more than %d headers"):format(server, HEADERS_MAX)) end
  local extra, seen = {}, {}
  for _, name in ipairs(names) do
    local value = headers[name]
    if seen[name:lower()] then report.fail(("%s: the header %s is there twice"):format(server, report.clean(name):sub(1, 60))) end
    seen[name:lower()] = true
    if type(value) ~= "string" or not records.header_name(name) then
      report.fail(("%s: the header %s cannot be used"):format(server, report.clean(name):sub(1, 60)))
    end
    if not secret_header(name, value) then
      kept[name] = value
    else
      local scheme, rest = value:match("^([Bb]earer) +(.+)$")
      local what = server .. ", " .. name
      if name:lower() == "authorization" and scheme then
        plain.type = "bearer"
        secrets["f/token"] = secret_text(ctx, opt, rest, what, target)
      else
        extra[#extra + 1] = { records.header_name(name), secret_text(ctx, opt, value, what, target) }
      end
    end
  end
  if plain.type == "api_key" and extra[1] then
    plain.fields.header = extra[1][1]
    secrets["f/key"] = table.remove(extra, 1)[2]
  end
  local more = {}
  for _, h in ipairs(extra) do
    secrets["h/" .. h[1]] = h[2]
    more[#more + 1] = h[1]
  end
  plain.secret_headers = #more > 0 and more or nil
  if next(secrets) and given.type ~= "sse" and target.path ~= "/" then
    local path, why = records.path(target.path)       -- up to what is secret in it
    if not path then     -- the whole host is more than the file says
      report.fail(("%s: its url's path cannot be kept as a prefix: %s"):format(server, why),
        ("take it out of the file, and make its credential by hand: sallyport credential add %s --type %s --host %s")
          :format(credential_name(server), plain.type, target.host))
    end
    plain.paths = { path }
  end
  return next(secrets) and plain or nil, secrets, kept
end

-- Where it is. What is secret in the path ends the prefix that counts.
local function target_of(server, sample)
  local plain = sample:gsub("/[^/?]*\1.*", "/"):gsub("\1", "x")
  local target = require("http").parse_url(plain)
  if target then return target end
  report.fail(("%s: its url is not one that can be used"):format(report.clean(server):sub(1, 60)),
    sample:find("^%a+://[^/]*@") and "it has a user or a password in it: put them into an Authorization header" or nil)
end

local function helper_line(server, given, host, plain)
  local quote, words = require("env").quote, {}
  if type(given.headersHelper) ~= "string" then report.fail(("%s: its headersHelper is not a text"):format(server)) end
  for word in given.headersHelper:gmatch("%S+") do words[#words + 1] = word end
  local program = (words[1] or ""):match("([^/]+)$") or "PROGRAM"
  return ("%s: its headersHelper can run here, where the sandbox cannot see it. Read it first, for the file that names it may be "
    .. "an agent's; put a copy into the folder that `serve --helpers DIR` names, then\n    sallyport credential add %s --type command --host %s %s%s"):format(
    server, credential_name(server) .. (plain and "-helper" or ""), host, quote("program=" .. program),
    words[2] and " " .. quote("arguments=" .. table.concat(words, " ", 2)) or "")
end

-- Where this variable stands in the url, as a row names it.
local function place_of(url, var)
  local path, query = url:match("^%a+://[^/?#]*([^?#]*)%??([^#]*)")
  local function named(place) return (place:gsub(":", "%%3A"):gsub(",", "%%2C")) end
  for name, value in query:gmatch("([^&=]+)=([^&]*)") do
    if value:find("${" .. var .. "}", 1, true) then return "query=" .. named(name) end
  end
  local place = "path=" .. named(path:gsub("%${([%w_]+)}", function(other) return other == var and "{}" or "*" end):gsub("/$", "")) .. "/**"
  return require("rows").parse("value:" .. place) and place or "path=/TEMPLATE{}"
end

-- { keep = entry for the new file, plain, secrets = what to store, say = lines, held: it still holds a secret, perhaps }
local function http_server(ctx, server, given, opt)
  if given.type ~= nil and type(given.type) ~= "string" then report.fail(("%s: its type is not a text"):format(server)) end
  local url, sample, in_url, in_host = address_of(ctx, server, given.url)
  local target = target_of(server, sample)
  for _, var in ipairs(in_host) do may_take(ctx, opt, var, target, server .. ", url", given.url:match("^%a*:?/*[^/?#]*")) end
  local entry = { type = given.type or "http", url = url }
  local plain, secrets, kept = record_of(ctx, server, target, given, opt)
  entry.headers = next(kept) and kept or nil
  local out = { keep = entry, say = {} }
  if given.headersHelper then out.say[1] = helper_line(server, given, target.host, plain) end
  for _, var in ipairs(in_url) do
    out.say[#out.say + 1] = ("%s: its url has a secret in it, for which the new file has ${%s}. To replace it there:\n"
      .. "    sallyport credential add %s --type substitute --host %s --substitute %s --env %s value=-")
      :format(server, var, credential_name(server .. "-url"), target.host, require("env").quote("value:" .. place_of(url, var)), var)
  end
  if plain then
    out.plain, out.secrets = plain, secrets
    if plain.plain_http then
      out.say[#out.say + 1] = ("%s: its url is http, so its secret goes over the network in clear"):format(server)
    end
  elseif not given.headersHelper and #in_url == 0 then
    out.say[#out.say + 1] = ("%s: no secret in it. If it asks for a sign-in:\n    sallyport mcp add %s %s\n"
      .. "  and if it asks for nothing:\n    sallyport domain add BUNDLE %s --method GET,POST,DELETE"):format(server,
      credential_name(server), require("env").quote(url), target.host)
  end
  return out
end

-- Arguments and variables that look like secrets, which only a person can take out.
local function suspects(server, given, env, say)
  local args = type(given.args) == "table" and given.args or {}
  local list, found = { given.command }, false
  for i, arg in ipairs(args) do
    list[#list + 1] = arg
    local before = type(args[i - 1]) == "string" and args[i - 1]:lower() or ""
    if before:find("^%-%-?[%w-]+$") and any_of(before, { "key$", "token$", "secret$", "password$", "auth$" })
      and type(arg) == "string" and not arg:find("^[-$]") then
      found = true
    end
  end
  for _, value in pairs(env) do list[#list + 1] = value end
  local function others(value, deep)        -- members that mean nothing here, and stay
    if type(value) == "string" then found = found or suspect(value) or random(value) end
    for k, v in pairs(type(value) == "table" and deep < 8 and value or {}) do
      found = found or type(k) == "string" and type(v) == "string" and v ~= "" and any_of(k:lower(), secret_words)
      others(v, deep + 1)
    end
  end
  for member, value in pairs(given) do
    if member ~= "args" and member ~= "env" and member ~= "command" then others({ [member] = value }, 0) end
  end
  for _, text in ipairs(list) do found = found or type(text) == "string" and suspect(text) end
  if found then
    say[#say + 1] = ("%s: its arguments or its environment look as if a secret stood in them, and it still stands in the "
      .. "new file: take it out, or put a variable in its place"):format(server)
  end
  return found
end

-- A program in the sandbox: its secrets come through its environment, and leave it in its requests.
local function stdio_server(server, given)
  local entry, say, env = {}, {}, object(server, given, "env")
  for k, v in pairs(given) do entry[k] = v end
  entry.env = {}
  local names = {}
  for name, value in pairs(env) do
    entry.env[name] = value
    if type(value) == "string" and secret_variable(name, value) then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    entry.env[name] = "${" .. name .. "}"      -- what `sallyport env` sets there: the placeholder
    say[#say + 1] = ("%s: %s is a secret in its environment. To replace it, name the host that it goes to:\n"
      .. "    sallyport credential add %s --type substitute --host HOST --substitute value:header=Authorization --env %s value=-")
      :format(server, name, credential_name(server .. "-" .. name:lower()), require("env").quote(name))
  end
  local held = suspects(server, given, entry.env, say)
  if not next(entry.env) then entry.env = nil end
  return { keep = entry, say = say, held = held }
end

-- ---- the command ---------------------------------------------------------------------------------

local function read(ctx, path)
  local text, why = ctx.host.read_file(path, FILE_MAX)
  if not text then
    report.fail(("%s cannot be read: %s"):format(report.clean(path), why == "absent" and "there is no such file" or why))
  end
  local doc = require("json").decode(text)
  if doc == nil then
    report.fail(("%s is not an .mcp.json: it is not JSON"):format(report.clean(path)), "comments, commas behind the last member, members twice and a byte order mark are not of it")
  end
  local servers = type(doc) == "table" and doc.mcpServers
  if type(servers) ~= "table" then
    report.fail(("%s is not an .mcp.json: it has no mcpServers"):format(report.clean(path)),
      "of another client's file, write the servers as {\"mcpServers\": {\"NAME\": {\"type\": \"http\", \"url\": …, \"headers\": {…}}}}")
  end
  local names = {}
  for name, given in pairs(servers) do
    if type(name) ~= "string" then report.fail(("%s: its mcpServers is a list, not an object"):format(report.clean(path))) end
    if type(given) ~= "table" then report.fail(("the server %s is not an object"):format(report.clean(tostring(name)):sub(1, 60))) end
    names[#names + 1] = name
  end
  if #names > SERVERS_MAX then report.fail(("more than %d servers"):format(SERVERS_MAX)) end
  table.sort(names)
  return servers, names
end

local function one(ctx, server, given, opt)
  if type(given.url) == "string" then return http_server(ctx, server, given, opt) end
  if given.command then return stdio_server(server, given) end
  local other = type(given.serverUrl) == "string" and "serverUrl" or type(given.httpUrl) == "string" and "httpUrl"
  report.fail(("the server %s has neither url nor command"):format(report.clean(server):sub(1, 60)),
    other and ("write its %s as \"url\""):format(other))
end

local function run(args, opt, ctx)
  opt.takes, opt.agreed = takes_of(opt.take), {}
  db.open(ctx)
  for _, b in ipairs(opt.bundle or {}) do db.need("bundle", b) end
  local servers, names = read(ctx, args[1])
  local same = opt.out and ctx.host.realpath(opt.out)
  if same and same == ctx.host.realpath(args[1]) then
    report.usage("--out names the file that is read: its secrets would be lost if anything failed")
  end
  local out, made, new, whose, held = {}, {}, { mcpServers = {} }, {}, false
  for _, name in ipairs(names) do
    local result = one(ctx, name, servers[name], opt)
    held = held or result.held
    local key = result.plain and result.plain.name
    if key and whose[key] then
      report.fail(("the servers '%s' and '%s' would both be kept as '%s'; nothing was changed"):format(whose[key], name, key),
        "rename one of them")
    end
    if key then whose[key] = name end
    if result.plain and db.peek("credential", result.plain.name, "the credential") then
      report.fail(("there is a credential '%s' already; nothing was changed"):format(result.plain.name),
        "rename that server, or remove the credential")
    end
    new.mcpServers[name] = result.keep
    out[#out + 1] = result
  end
  local now, any = require("time").wall(), false
  for _, result in ipairs(out) do any = any or result.plain ~= nil end
  local text = require("json").encode(new, { indent = 2 }) .. "\n"
  if opt.out then      -- first: what is kept cannot be imported a second time
    local ok, why = require("cli.files").write(ctx.host, opt.out, text, held and 384 or 420)   -- 0644: there is no secret in it
    if not ok then report.fail(("%s cannot be written: %s"):format(report.clean(opt.out), tostring(why))) end
  end
  if any then db.change(function()
    local ops = {}
    made = {}
    for _, result in ipairs(out) do
      if result.plain then
        result.plain.created, result.plain.order = now, require("store").generation()
        ops[#ops + 1] = { op = "put", db = "credential", key = result.plain.name, version = 0, plain = result.plain,
          secrets = result.secrets }
        made[#made + 1] = ("'%s' for %s"):format(result.plain.name, result.plain.hosts[1])
      end
    end
    return ops
  end) end
  if not opt.out then ctx.out(text) end
  ctx.note(#made > 0 and ("Kept %s. The %s without their secrets; the old one still has them."):format(
    table.concat(made, ", "), opt.out and "new file names the servers" or "file on standard output names the servers")
    or "Nothing was kept.")
  for _, result in ipairs(out) do
    for _, line in ipairs(result.say) do ctx.note(line) end
  end
  return 0
end

return {
  words = "mcp import", args = "FILE", min = 1, max = 1, summary = "take the secrets out of an .mcp.json",
  options = {
    { name = "out", arg = "FILE", help = "where the file without secrets goes; else standard output" },
    { name = "bundle", arg = "BUNDLE", many = true, help = "which bundles hold the credentials; `default` unless named" },
    { name = "take", arg = "NAME=HOST", many = true, help = "this variable's value may be kept for this host" },
  },
  help = [[
Reads the servers of an .mcp.json. Of http and sse servers the headers that hold secrets become credentials for that
server's host and path. There ${VAR} and ${VAR:-default} come from the environment, once you have seen which variable
goes to which host: at the terminal it asks, elsewhere --take names both. What is not set is asked for. What it prints
is the same file without a secret, for the sandbox; a variable stays a variable there. For programs (stdio) it names the secrets in their
environment and the credential that would replace each; of a secret in a url likewise. Programs' arguments stay as they are: where one looks like a
secret, it says so.

examples:
  sallyport mcp import .mcp.json --out sandbox/.mcp.json
  GH_TOKEN=$(pass show gh) sallyport mcp import ~/project/.mcp.json --take GH_TOKEN=api.example.com > sandbox.json
]], run = run,
}
