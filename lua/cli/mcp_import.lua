--- sallyport mcp import: an .mcp.json with secrets in it becomes credentials, and a file without any.
local db = require "cli.db"
local records = require "records"
local report = require "cli.report"

local FILE_MAX = 1 << 20
local SERVERS_MAX = 200

-- Headers whose value is a secret however it is written; another is one if a variable stands in it.
local function secret_header(name, value)
  local n = name:lower()
  return n == "authorization" or n == "cookie" or n:find("key", 1, true) or n:find("token", 1, true)
    or n:find("secret", 1, true) or n:find("password", 1, true) or value:find("${", 1, true) ~= nil
end

local function secret_variable(name, value)
  local n = name:upper()
  return (n:find "KEY" or n:find "TOKEN" or n:find "SECRET" or n:find "PASSWORD" or n:find "PASSWD" or n:find "_PAT$"
    or n:find "CREDENTIAL") and value ~= ""
end

-- ---- variables -----------------------------------------------------------------------------------

-- The parts of a text: strings, and { name, default } for ${NAME} and ${NAME:-default}.
local function parts_of(text)
  local out, at = {}, 1
  while true do
    local from, to, name, rest = text:find("%${([%a_][%w_]*)([^}]*)}", at)
    if not from then break end
    if rest ~= "" and rest:sub(1, 2) ~= ":-" then
      out[#out + 1] = text:sub(at, to)
    else
      if from > at then out[#out + 1] = text:sub(at, from - 1) end
      out[#out + 1] = { name, rest ~= "" and rest:sub(3) or nil }
    end
    at = to + 1
  end
  if at <= #text then out[#out + 1] = text:sub(at) end
  return out
end

local function plain_text(ctx, text, what)
  local out = {}
  for i, part in ipairs(parts_of(text)) do
    if type(part) == "table" then
      local value = ctx.host.getenv(part[1])
      if value == nil or value == "" then value = part[2] end
      if not value then
        report.fail(("%s: the variable %s is not set"):format(what, part[1]), ("%s=… sallyport mcp import …"):format(part[1]))
      end
      part = value
    end
    out[i] = part
  end
  return table.concat(out)
end

-- The same as a secret: variables are read as handles; what is not set is asked for.
local function secret_text(ctx, text, what)
  local secret, out = require "secret.core", nil
  for _, part in ipairs(parts_of(text)) do
    local piece
    if type(part) == "string" then
      piece = secret.of(part)
    else
      piece = ctx.host.env_secret(part[1], {})
      if not piece and part[2] then piece = secret.of(part[2]) end
      if not piece and ctx.host.isatty(0) then
        piece = ctx.host.tty_secret(("%s, %s (not shown): "):format(what, part[1]), {})
      end
      if not piece then
        report.fail(("%s: the variable %s is not set, and there is no terminal to ask on"):format(what, part[1]),
          ("%s=… sallyport mcp import …"):format(part[1]))
      end
    end
    out = out and out .. piece or piece
  end
  out = out or secret.of("")
  local ok, why = secret.check(out, {})
  if not ok then report.fail(("%s: its value has %s"):format(what, why)) end
  return out
end

-- ---- one server ----------------------------------------------------------------------------------

local function credential_name(server)
  local name = server:gsub("[^%w._-]", "-"):gsub("^[^%w]+", "")
  return records.name(name ~= "" and name:sub(1, 60) or "mcp")
end

-- The record for an http or sse server whose headers hold secrets.
local function record_of(ctx, server, url, given, opt)
  local target = require("http").parse_url(url)
  if not target then report.fail(("%s: its url is not a URL"):format(server)) end
  local plain = {
    name = credential_name(server), type = "api_key", enabled = true, bundles = opt.bundle or { "default" },
    hosts = { target.host }, ports = { target.port }, plain_http = target.scheme == "http" or nil, fields = {},
  }
  if given.type ~= "sse" and target.path ~= "/" then
    local path = records.path(target.path)
    plain.paths = path and { path } or nil
  end
  local secrets, kept, names = {}, {}, {}
  for name in pairs(given.headers or {}) do names[#names + 1] = name end
  table.sort(names)
  local extra = {}
  for _, name in ipairs(names) do
    local value = given.headers[name]
    if type(value) ~= "string" or not records.header_name(name) then
      report.fail(("%s: the header %s cannot be used"):format(server, report.clean(name):sub(1, 60)))
    end
    if not secret_header(name, value) then
      kept[name] = plain_text(ctx, value, server)
    else
      local scheme, rest = value:match("^([Bb]earer) +(.+)$")
      local what = server .. ", " .. name
      if name:lower() == "authorization" and scheme then
        plain.type = "bearer"
        secrets["f/token"] = secret_text(ctx, rest, what)
      else
        extra[#extra + 1] = { records.header_name(name), secret_text(ctx, value, what) }
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
  return next(secrets) and plain or nil, secrets, kept
end

-- { keep = entry for the new file, ops = what to store, say = lines }
local function http_server(ctx, server, given, opt)
  local url = plain_text(ctx, given.url, server)
  local entry = { type = given.type or "http", url = url }
  local plain, secrets, kept = record_of(ctx, server, url, given, opt)
  entry.headers = next(kept) and kept or nil
  local out = { keep = entry, say = {} }
  if given.headersHelper then
    local words = {}
    for word in tostring(given.headersHelper):gmatch("%S+") do words[#words + 1] = word end
    local program = (words[1] or ""):match("([^/]+)$") or "PROGRAM"
    out.say[1] = ("%s: its headersHelper can run here, where the sandbox cannot see it: put it into the folder that "
      .. "`serve --helpers DIR` names, then\n    sallyport credential add %s --type command --host %s program=%s%s"):format(
      server, credential_name(server) .. (plain and "-helper" or ""), require("http").parse_url(url).host, program,
      words[2] and (" arguments=\"%s\""):format(table.concat(words, " ", 2)) or "")
  end
  if plain then
    out.plain, out.secrets = plain, secrets
  elseif not given.headersHelper then
    out.say[#out.say + 1] = ("%s: no secret in it. If it asks for a sign-in:\n    sallyport mcp add %s %s"):format(server,
      credential_name(server), url)
  end
  return out
end

-- A program in the sandbox: its secrets come through its environment, and leave it in its requests.
local function stdio_server(server, given)
  local entry, say = {}, {}
  for k, v in pairs(given) do entry[k] = v end
  entry.env = {}
  local names = {}
  for name, value in pairs(given.env or {}) do
    entry.env[name] = value
    if type(value) == "string" and secret_variable(name, value) then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    entry.env[name] = "${" .. name .. "}"      -- what `sallyport env` sets there: the placeholder
    say[#say + 1] = ("%s: %s is a secret in its environment. To replace it, name the host that it goes to:\n"
      .. "    sallyport credential add %s --type substitute --host HOST --substitute value:header,query,body --env %s value=-")
      :format(server, name, credential_name(server .. "-" .. name:lower()), name)
  end
  if not next(entry.env) then entry.env = nil end
  return { keep = entry, say = say }
end

-- ---- the command ---------------------------------------------------------------------------------

local function read(ctx, path)
  local text, why = ctx.host.read_file(path, FILE_MAX)
  if not text then report.fail(("%s cannot be read: %s"):format(report.clean(path), why)) end
  local doc = require("json").decode(text)
  local servers = type(doc) == "table" and doc.mcpServers
  if type(servers) ~= "table" then report.fail(("%s is not an .mcp.json: it has no mcpServers"):format(report.clean(path))) end
  local names = {}
  for name, given in pairs(servers) do
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
  report.fail(("the server %s has neither url nor command"):format(report.clean(server):sub(1, 60)))
end

local function run(args, opt, ctx)
  db.open(ctx)
  for _, b in ipairs(opt.bundle or {}) do db.need("bundle", b) end
  local servers, names = read(ctx, args[1])
  local out, made, new = {}, {}, { mcpServers = {} }
  for _, name in ipairs(names) do
    local result = one(ctx, name, servers[name], opt)
    if result.plain and db.peek("credential", result.plain.name, "the credential") then
      report.fail(("there is a credential '%s' already; nothing was changed"):format(result.plain.name),
        "rename that server, or remove the credential")
    end
    new.mcpServers[name] = result.keep
    out[#out + 1] = result
  end
  local now, any = require("time").wall(), false
  for _, result in ipairs(out) do any = any or result.plain ~= nil end
  if any then db.change(function()
    local ops = {}
    made = {}
    for _, result in ipairs(out) do
      if result.plain then
        result.plain.created, result.plain.order = now, require("store").generation()
        ops[#ops + 1] = { op = "put", db = "credential", key = result.plain.name, version = 0, plain = result.plain,
          secrets = result.secrets }
        made[#made + 1] = result.plain.name
      end
    end
    return ops
  end) end
  local text = require("json").encode(new, { indent = 2 }) .. "\n"
  if opt.out then
    local ok, why = ctx.host.write_file(opt.out, text, 420)   -- 0644: there is no secret in it
    if not ok then report.fail(("%s cannot be written: %s"):format(report.clean(opt.out), tostring(why))) end
  else
    ctx.out(text)
  end
  ctx.note(#made > 0 and ("Kept %s. The %s without their secrets; the old one still has them."):format(
    table.concat(made, ", "), opt.out and "new file names the servers" or "text above names the servers")
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
  },
  help = [[
Reads the servers of an .mcp.json. Of http and sse servers the headers that hold secrets become credentials for that
server's host and path; ${VAR} and ${VAR:-default} come from the environment, and what is not set is asked for. What
it prints is the same file without a secret, for the sandbox. For programs (stdio) it names the secrets in their
environment and the credential that would replace each.

examples:
  sallyport mcp import .mcp.json --out sandbox/.mcp.json
  GH_TOKEN=$(pass show gh) sallyport mcp import ~/project/.mcp.json --bundle work > sandbox.json
]], run = run,
}
