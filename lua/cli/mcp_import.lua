--- sallyport mcp import: a client's file of MCP servers with secrets in it becomes credentials, and a file without any.
local db = require "cli.db"
local file = require "cli.mcp_file"
local jsonc = require "cli.jsonc"
local looks = require "cli.looks"
local programs = require "cli.mcp_programs"
local records = require "records"
local report = require "cli.report"

local HEADERS_MAX = 64       -- of a server; an upstream takes a hundred at most
local SECRETS_MAX = 30       -- of a credential, as `credential add` takes them
local SHOWN_MAX = 60         -- bytes of a name of theirs in a message
local TEXT_MAX = 16384       -- bytes of a text of a server: each is looked through for variables and secrets
local TEXTS_MAX = 1000       -- of a server
local FILE_TEXTS_MAX = 50000 -- of the file beside them
local PARTS_MAX = 200        -- of a text: variables, and what is between them
local MADE_MAX = 500         -- credentials of a file

-- A name of theirs that is a key itself is not repeated.
local function masked(text)
  return (text:gsub("[%w_-]+", function(word) return #word >= 12 and looks.secret(word) and "…" or nil end))
end

local function short(text) return masked(report.clean(text):sub(1, SHOWN_MAX)) end

-- ---- variables -----------------------------------------------------------------------------------

-- What a client fills in itself, and which says nothing secret (VS Code, Cursor).
local fixed = { workspaceFolder = true, workspaceFolderBasename = true, userHome = true, pathSeparator = true, cwd = true,
  CLAUDE_PLUGIN_ROOT = true, CLAUDE_PROJECT_DIR = true, extensionPath = true }

-- One reference: { name, default, raw = as it stands, input = is it no variable of the environment }, or nil.
local function reference(raw, inner)
  local name, rest = inner:match("^([%a_][%w_]*)(.*)$")
  if name == "env" and rest:find("^:[%a_][%w_]*$") then return { rest:sub(2), raw = raw } end
  if fixed[name] or inner == "/" then return { inner, raw = raw, fixed = true } end
  if name and rest == "" then return { name, raw = raw } end
  if name and rest:sub(1, 2) == ":-" then return { name, rest:sub(3), raw = raw } end
  return { inner:match("^%s*input:(.*)$") or inner:match("^%s*(.-)%s*$"), raw = raw, input = true }
end

local ways = {
  { "%${{([^{}]*)}}" },                      -- Continue: ${{ secrets.NAME }}
  { "%${([^{}]*)}" },
  { "{(env:[%a_][%w_]*)}" },                 -- opencode
  { "{(file:[^{}]*)}" },
  { "%$%(([^()]*)%)" },                      -- Crush: $(a command)
  { "%f[%$]%$([%u_][%u%d_]+)%f[^%w_]" },     -- Gemini, Amazon Q: $NAME
}

-- The parts of a text: strings, and references: ${NAME}, ${NAME:-default}, ${env:NAME}, ${input:ID} and their kin.
local function parts_of(text)
  local out, at = {}, 1
  while true do
    local from, to, inner
    for _, way in ipairs(ways) do
      local a, b, c = text:find(way[1], at)
      if a and (not from or a < from) then from, to, inner = a, b, c end
    end
    if not from then break end
    if from > at then out[#out + 1] = text:sub(at, from - 1) end
    out[#out + 1] = reference(text:sub(from, to), inner)
    if #out > PARTS_MAX then report.fail(("a text has more than %d variables"):format(PARTS_MAX // 2)) end
    at = to + 1
  end
  if at <= #text then out[#out + 1] = text:sub(at) end
  return out
end

-- Is there a reference in it that is filled in from outside?
local function varies(text)
  for _, part in ipairs(parts_of(text)) do
    if type(part) == "table" and not part.fixed then return true end
  end
  return false
end

local function unset(var, what, why, more)
  report.fail(("%s: the variable %s is not set%s"):format(short(what), var, why or ""), ("%s=… sallyport mcp import …%s"):format(var, more or ""))
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
    local name, scheme, rest = text:match("^([^=%s%c]+)=(.+)$"), nil, nil
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

-- --input ID=@FILE: what a client would ask for, or read from elsewhere.
local function inputs_of(list)
  local out = {}
  for _, text in ipairs(list or {}) do
    local id, rest = text:match("^([^=]+)=(.*)$")
    local a, why = records.assignment("value=" .. (rest or ""))
    if not id or not a then report.usage(("--input: %s"):format(why or "it is ID=@FILE, ID=- or ID=env:NAME")) end
    out[id] = a
  end
  return out
end

local function taken(opt, name)
  for _, t in ipairs(opt.takes) do
    if t.name == name then return t end
  end
end

-- A file that an agent may write does not decide which of the operator's values go where: the operator names the variable
-- and has seen the host, by --take or at the terminal. Else the server is refused before anything of it is kept.
-- `as`: the address with its variables, where the value is a part of the address and not to be shown.
local function may_take(ctx, opt, part, target, what, as)
  local var, origin, elsewhere = part[1], report.clean(as or origin_of(target)), nil
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
  local text = ("%s: the file wants the value of your %s %s for %s"):format(report.clean(what), part.input and "input" or "variable",
    report.clean(var), origin)
  if not elsewhere and ctx.host.isatty(0) then
    ctx.note(text .. ".")
    opt.agreed[key] = report.ask(ctx, "Is it to go there?")
    if opt.agreed[key] then return end
    report.fail(text .. ", and you said no")
  end
  report.fail(elsewhere and ("%s; --take lets it go to %s alone"):format(text, elsewhere) or text,
    ("if that is right: --take %s"):format(as and report.clean(var) .. "=HOST, the host that comes of it"
      or require("env").quote(("%s=%s"):format(report.clean(var), (origin:gsub("^https://", ""))))))
end

-- The value of one reference as a handle.
local function secret_piece(ctx, opt, part, what, target)
  local a = part.input and opt.inputs[part[1]]
  local value
  if a then
    may_take(ctx, opt, part, target, what)
    value = opt.read[part[1]] or require("cli.fields").secret(ctx, a, "--input " .. report.clean(part[1]))
    opt.read[part[1]] = value       -- standard input gives it once
    return value
  end
  if not part.input and not part.fixed then
    value = ctx.host.read_secret("env", part[1], {})
    if value then may_take(ctx, opt, part, target, what) end
    if not value and part[2] then return require("secret.core").of(part[2]) end
  end
  if not value and ctx.host.isatty(0) and not part.fixed then
    value = ctx.host.tty_secret(("%s, %s, for %s (not shown): "):format(report.clean(what), report.clean(part[1]),
      report.clean(origin_of(target))), {})
  end
  if value then return value end
  if not part.input then
    unset(part[1], what, ", and there is no terminal to ask on",
      " --take " .. require("env").quote(report.clean(part[1]) .. "=" .. report.clean(origin_of(target):gsub("^https://", ""))))
  end
  local id = report.clean(part[1])
  report.fail(("%s: it takes %s from the client, which asks a person for it or reads it elsewhere; there is no terminal to ask on"):format(
    short(what), short(part.raw)), ("--input %s --take %s"):format(require("env").quote(id .. "=@FILE"),
      require("env").quote(id .. "=" .. origin_of(target):gsub("^https://", ""))))
end

-- A secret: variables are read as handles; what is not set is asked for.
local function secret_text(ctx, opt, text, what, target)
  local secret, out = require "secret.core", nil
  for _, part in ipairs(parts_of(text)) do
    local piece = type(part) == "string" and secret.of(part) or nil
    piece = piece or secret_piece(ctx, opt, part, what, target)
    out = out and out .. piece or piece
  end
  out = out or secret.of("")
  -- What a header could not carry is refused here. It is a handle: C looks, as at a token of an answer.
  local built, document = pcall(require("json").build, { value = out })
  local seen = built and secret.expect(document, { value = "secret" })
  if not (seen and seen.value) or text:find("^%s") or text:find("%s$") then
    report.fail(("%s: its value is empty, or has line breaks, control bytes, no UTF-8 or a space at an end"):format(report.clean(what)))
  end
  return out
end

-- ---- addresses -----------------------------------------------------------------------------------

local function decoded(text) return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)) end

-- "\1N\1" stands for the Nth reference, "\2" for what is secret and has gone.
local function shown_parts(ctx, opt, server, text)
  local shown, sample, holes, in_host = "", "", {}, {}
  for _, part in ipairs(parts_of(text)) do
    if type(part) == "string" then
      part = part:gsub("[\1\2]", " ")
      shown, sample = shown .. part, sample .. part
    else
      holes[#holes + 1] = part
      shown = ("%s\1%d\1"):format(shown, #holes)
      if sample:find("^%a+://[^/?#]+[/?#]") then
        sample = sample .. "\1"
      else
        local a, value = part.input and opt.inputs[part[1]], nil
        if a and a.from == "literal" then value = a.value end
        if not part.input and not part.fixed then value = ctx.host.getenv(part[1]) end
        if value and value ~= "" then in_host[#in_host + 1] = part else value = part[2] end
        if not value and part.input then
          report.fail(("%s: the host of its url comes from %s"):format(short(server), short(part.raw)),
            ("--input %s"):format(require("env").quote(report.clean(part[1]) .. "=VALUE")))
        end
        if not value then unset(part[1], server) end
        sample = sample .. value:gsub("[\1\2]", " ")
      end
    end
  end
  return shown, sample, holes, in_host
end

-- Is this reference one to a secret? What the operator names by --take is.
local function secret_hole(part)
  return not part.fixed and (looks.word(part[1]) and looks.named(part[1], "some value") or part[2] and looks.secret(part[2], { uuid = true }) ~= nil)
end

-- The address of a server: { sample = as it is parsed, in_host = the references of its host, whose values are in `sample`,
-- url(put) = as the new file has it, items = what is secret in it, as text: { kind = "query" | "path", name, text },
-- vars = secret variables that stay, for nobody said where they may go }.
local function address_of(ctx, opt, server, text)
  local shown, sample, holes, in_host = shown_parts(ctx, opt, server, text)
  local items, vars, seen = {}, {}, {}
  local function raw(piece)
    return (piece:gsub("\1(%d+)\1", function(i) return holes[tonumber(i)].raw end))
  end
  local function secret_in(piece, name)
    local found, only
    for i in piece:gmatch("\1(%d+)\1") do
      local part = holes[tonumber(i)]
      local secret = secret_hole(part) or name and looks.word(name) and not part.fixed
      if secret and (part.input and opt.inputs[part[1]] or taken(opt, part[1])) then found = true
      elseif secret then
        only = true
        if not seen[part[1]] then vars[#vars + 1], seen[part[1]] = part, true end
      end
    end
    if only then return nil end
    if found then return true end
    if piece:find("\1", 1, true) then return false end
    return piece ~= "" and (name and looks.word(name) and looks.named(name, piece) or looks.secret(decoded(piece), { name = name, uuid = true }) ~= nil)
  end
  local head, rest = shown:match("^(%a+://[^/?#]*)(.*)$")
  if not head then head, rest = shown:match("^(\1%d+\1[^/?#]*)(.*)$") end
  if not head or opt.keeps(server, "url") then
    return { sample = sample, in_host = in_host, items = items, vars = vars, url = function() return text end }
  end
  local path, query, fragment = rest:match("^([^?#]*)(%??[^#]*)(.*)$")
  local function item(kind, name, piece)
    items[#items + 1] = { kind = kind, name = name, text = decoded(raw(piece)) }
    return ("\2%d\2"):format(#items)
  end
  path = path:gsub("[^/]+", function(piece) return secret_in(piece) and item("path", nil, piece) or nil end)
  query = query:gsub("([?&])([^=&]+)=([^&]*)", function(sep, name, value)
    return secret_in(value, name) and sep .. name .. "=" .. item("query", decoded(name), value) or nil
  end)
  local stays = raw(query:gsub("=\2%d+\2", "=") .. fragment)
  if looks.secret(stays, { uuid = true }) and not query:find("=\1", 1, true) then
    report.fail(("%s: its url has what looks like a secret where it cannot be taken out"):format(short(server)),
      ("if it is none: --keep %s"):format(require("env").quote(report.clean(server) .. ".url")))
  end
  local marked = head .. path .. query .. fragment
  if #items > 0 then                                  -- what counts as its path ends before
    sample = sample:match("^%a+://[^/?#]*") .. path:gsub("\1%d+\1", "\1"):gsub("\2%d+\2", "\1") .. query:gsub("[\1\2].*", "")
  end
  return { sample = sample, in_host = in_host, items = items, vars = vars, path = raw(path), url = function(put)
    local out = marked
    for i, it in ipairs(items) do
      local value = put(it)
      local mark = ("\2%d\2"):format(i)
      if value then out = out:gsub(mark, (value:gsub("%%", "%%%%")))
      else                                             -- its parameter goes whole
        out = out:gsub("%?[^=&?#]+=" .. mark .. "&", "?"):gsub("[?&][^=&?#]+=" .. mark, "")
      end
    end
    return raw(out)
  end }
end

-- Where it is. What is secret in the path ends the prefix that counts.
local function target_of(server, sample)
  local plain = sample:gsub("/[^/?]*\1.*", "/"):gsub("\1", "x")
  local target = require("http").parse_url(plain)
  if target then return target end
  report.fail(("%s: its url is not one that can be used"):format(short(server)),
    sample:find("^%a+://[^/]*@") and "it has a user or a password in it: put them into an Authorization header"
      or sample:find("^wss?:") and "it is a WebSocket's: make its credential by hand, sallyport credential add" or nil)
end

-- ---- one server ----------------------------------------------------------------------------------

local function credential_name(opt, server)
  local name = server:gsub("[^%w._-]", "-"):gsub("^[^%w]+", "")
  return records.name((opt.prefix .. (name ~= "" and name or "mcp")):sub(1, SHOWN_MAX))
end

local function plain_for(opt, server, target)
  return { name = credential_name(opt, server), type = "api_key", enabled = true, bundles = opt.bundle or { "default" },
    hosts = { target.host }, ports = { target.port }, plain_http = target.scheme == "http" or nil, fields = {} }
end

-- Headers that hold secrets, as the list of { name, value, drop } that are to go. Those without stay as they are.
local function secret_headers(opt, server, list)
  local out, seen = {}, {}
  if #list > HEADERS_MAX then report.fail(("%s: more than %d headers"):format(short(server), HEADERS_MAX)) end
  for _, h in ipairs(list) do
    local lower, plain = h.name:lower(), type(h.value) ~= "string"
    if plain and looks.word(h.name) then report.fail(("%s: the header %s is no text"):format(short(server), short(h.name))) end
    if seen[lower] then report.fail(("%s: the header %s is there twice"):format(short(server), short(h.name))) end
    seen[lower] = true
    local value = h.value
    if not plain and value ~= "" and not opt.keeps(server, "headers." .. h.name, h.name)
      and (looks.word(h.name) or varies(value) or looks.secret(value, { uuid = true }) or value:lower():find("^bearer%s")
        or value:lower():find("^basic%s")) then
      if not records.header_name(h.name) then report.fail(("%s: the header %s cannot be used"):format(short(server), short(h.name))) end
      out[#out + 1] = h
    end
  end
  table.sort(out, function(a, b) return a.name < b.name end)
  return out
end

-- In a row ":" and "," end a place.
local function in_row(text) return (text:gsub(":", "%%3A"):gsub(",", "%%2C")) end

-- A path as a row's template. hole(piece) -> what stands for a piece, or nil: itself. What a client fills in is any
-- piece, and so is what a template cannot spell.
local function template(path, hole)
  return path:gsub("[^/]+", function(piece)
    local known = hole(piece)
    if known then return known end
    local parts = parts_of(piece)
    if #parts > 1 or type(parts[1]) == "table" or piece:find("[*{}]") or piece:find("%%[23][AaCc]") then return "*" end
    return in_row(piece)
  end):gsub("/$", "") .. "/**"
end

-- The type by what is secret, and the secrets.
local function secrets_of(ctx, opt, server, target, address, headers, login)
  local plain, secrets, rest = plain_for(opt, server, target), {}, {}
  local items = address.items
  local function text(h, value) return secret_text(ctx, opt, value or h.value, server .. ", " .. (h.name or "url"), target) end
  if #items == 1 and items[1].kind == "query" then
    plain.type, plain.fields = "body_parameter", { name = items[1].name, ["in"] = "query" }
    secrets["f/value"] = text(items[1], items[1].text)
  elseif #items > 0 then
    plain.type, plain.rows = "substitute", {}
    local prefix, used = server:upper():gsub("[^%w]", "_"):sub(1, SHOWN_MAX), {}
    for i, it in ipairs(items) do
      local key = (it.kind == "query" and it.name:upper():gsub("[^%w]", "_"):sub(1, SHOWN_MAX)) or "URL_KEY"
      if used[key] then key = key .. i end
      used[key], it.key, it.literal = true, key, ("__%s_%s_SECRET__"):format(prefix, key)
    end
    for i, it in ipairs(items) do
      local place = it.kind == "query" and "query=" .. in_row(it.name:gsub("%%", "%%25"))
        or "path=" .. template(address.path, function(piece)
          local at = piece:match("^\2(%d+)\2$")
          return at and (tonumber(at) == i and "{}" or "*")
        end)
      local row, why = require("rows").parse(("values.%s:%s:%s"):format(it.key, place, it.literal))
      if not row then report.fail(("%s: the secret in its url cannot be replaced: %s"):format(short(server), why)) end
      plain.rows[i], secrets["f/values/" .. it.key] = row, text(it, it.text)
    end
  end
  if login then
    if #items > 0 then report.fail(("%s: its url has a password and another secret"):format(short(server)), "put one of them into a header") end
    plain.type, plain.fields = "basic", { username = login.user }
    secrets["f/password"] = text({ name = "url" }, login.password)
  end
  for _, h in ipairs(headers) do
    if login and h.name:lower() == "authorization" then report.fail(("%s: its url has a password, and there is an Authorization header"):format(short(server))) end
    local scheme, value = h.value:match("^([Bb]earer) +(.+)$")
    if scheme and h.name:lower() == "authorization" and plain.type == "api_key" then
      plain.type, secrets["f/token"] = "bearer", text(h, value)
    else rest[#rest + 1] = h
    end
  end
  if plain.type == "api_key" and rest[1] then
    local h = table.remove(rest, 1)
    plain.fields.header, secrets["f/key"] = records.header_name(h.name), text(h)
  end
  local more = {}
  for _, h in ipairs(rest) do
    more[#more + 1] = records.header_name(h.name)
    secrets["h/" .. more[#more]] = text(h)
  end
  plain.secret_headers = #more > 0 and more or nil
  if not next(secrets) then return nil end
  local n = 0
  for _ in pairs(secrets) do n = n + 1 end
  if n > SECRETS_MAX then report.fail(("%s: more than %d secrets"):format(short(server), SECRETS_MAX)) end
  return plain, secrets
end

-- Where this variable stands in the url, as a row names it.
local function place_of(url, part)
  local path, query = url:match("^%a+://[^/?#]*([^?#]*)%??([^#]*)")
  for name, value in (query or ""):gmatch("([^&=]+)=([^&]*)") do
    if value:find(part.raw, 1, true) then return "query=" .. in_row(name) end
  end
  local place = "path=" .. template(path or "", function(piece) return piece == part.raw and "{}" or nil end)
  return require("rows").parse("value:" .. place) and place or "path=/TEMPLATE{}"
end

--- A server at an address, of a client or of a program that reaches it. remote = { url, set(text), headers = { { name,
-- value, drop() }… }, sse, helper = is there a headersHelper }
local function remote_server(ctx, opt, server, remote, out)
  local scheme, user, password, rest = remote.url:match("^(https?://)([^/?#@:%s${}]*):([^/?#@%s]+)@([^@]*)$")
  local login = user and { user = decoded(user), password = decoded(password) }
  if login then remote.url = scheme .. rest end          -- RFC 9110 4.2.4: clients send it as Basic, if at all
  local address = address_of(ctx, opt, server, remote.url)
  local target = target_of(server, address.sample)
  for _, part in ipairs(address.in_host) do
    may_take(ctx, opt, part, target, server .. ", url", remote.url:match("^%a*:?/*[^/?#]*"))
  end
  local headers = secret_headers(opt, server, remote.headers)
  local plain, secrets = secrets_of(ctx, opt, server, target, address, headers, login)
  for _, part in ipairs(address.vars) do
    out.say[#out.say + 1] = ("%s: its url has a secret in it, for which the new file has %s. To replace it there:\n"
      .. "    sallyport credential add %s --type substitute --host %s --substitute %s --env %s value=-")
      :format(short(server), report.clean(part.raw), credential_name(opt, server .. "-url"), target.host,
        require("env").quote("value:" .. place_of(remote.url, part)), require("env").quote(report.clean(part[1])))
  end
  if plain and not remote.sse and target.path ~= "/" then
    local path, why = records.path(target.path)       -- up to what is secret in it
    if not path then     -- the whole host is more than the file says
      report.fail(("%s: its url's path cannot be kept as a prefix: %s"):format(short(server), why),
        ("take it out of the file, and make its credential by hand: sallyport credential add %s --type %s --host %s")
          :format(plain.name, plain.type, target.host))
    end
    plain.paths = { path }
  end
  for _, h in ipairs(headers) do h.drop() end
  if #address.items > 0 or login then remote.set(address.url(function(it) return it.literal end)) end
  if plain then
    out.made[#out.made + 1] = { plain = plain, secrets = secrets }
    if plain.plain_http then
      out.say[#out.say + 1] = ("%s: its url is http, so its secret goes over the network in clear"):format(short(server))
    end
  elseif not remote.helper and #address.vars == 0 then
    local port = target.port ~= 443 and (" --port %d"):format(target.port) or ""
    out.say[#out.say + 1] = ("%s: no secret in it. If it asks for a sign-in:\n    sallyport mcp add %s %s\n"
      .. "  and if it asks for nothing:\n    sallyport domain add BUNDLE %s --method GET,POST,DELETE%s"):format(short(server),
      credential_name(opt, server), require("env").quote(report.clean(remote.url)), target.host, port)
  end
  return target, plain
end

-- A helper that is a program's path with plain arguments can run as it is.
local function helper_line(opt, server, line, host, plain)
  local quote, words = require("env").quote, {}
  for word in line:gmatch("%S+") do words[#words + 1] = word end
  local first = words[1] or ""
  local program = first:match("([^/]+)$") or "PROGRAM"
  local name = credential_name(opt, server) .. (plain and "-helper" or "")
  if line:find("[|&;<>$`\"'*?(){}~\\\n=]") or not first:find("/", 1, true) and first ~= "" or program:find("^[%a]*sh$")
    or looks.secret(line, { uuid = true }) then
    return ("%s: its headersHelper is a line for a shell, and Sallyport starts a program, without a shell. Read it first, for the "
      .. "file that names it may be an agent's; write it into a file of its own (#!/bin/sh, chmod +x), put that into the folder "
      .. "that `serve --helpers DIR` names, then\n    sallyport credential add %s --type command --host %s program=FILE"):format(
      short(server), name, host)
  end
  return ("%s: its headersHelper can run here, where the sandbox cannot see it. Read it first, for the file that names it may be "
    .. "an agent's; put a copy into the folder that `serve --helpers DIR` names, then\n    sallyport credential add %s --type command --host %s %s%s"):format(
    short(server), name, host, quote("program=" .. program),
    words[2] and " " .. quote("arguments=" .. table.concat(words, " ", 2)) or "")
end

-- The members of objects of headers as secret_headers takes them.
local function header_list(server, objects)
  local out = {}
  for _, o in ipairs(objects) do
    if o.node.kind ~= "object" then
      if o.node.value ~= require("json").null then report.fail(("%s: its headers is not an object"):format(short(server))) end
    else
      for _, kid in ipairs(o.node) do
        out[#out + 1] = { name = kid.name, value = kid.node.value, drop = function()
          kid.gone = true
          if jsonc.empty(o.node) then o.kid.gone = true end
        end }
      end
    end
  end
  return out
end

-- Members that some clients send as a bearer token.
local token_members = { "bearer_token", "bearerToken", "authorization_token", "authorizationToken" }

local function http_server(ctx, opt, server, s, out)
  if s.url.kind ~= "string" then report.fail(("%s: its url is not a text"):format(short(server))) end
  local kind = jsonc.get(s.parts[1], "type")
  if kind and kind.kind ~= "string" then report.fail(("%s: its type is not a text"):format(short(server))) end
  local helper, helper_kid = jsonc.get(s.parts[1], "headersHelper")
  if helper and helper.kind ~= "string" then report.fail(("%s: its headersHelper is not a text"):format(short(server))) end
  local headers = header_list(server, s.headers)
  for _, name in ipairs(token_members) do
    local token, kid = jsonc.get(s.parts[1], name)
    if token and token.kind == "string" and token.value ~= "" then
      headers[#headers + 1] = { name = "Authorization", value = "Bearer " .. token.value, drop = function() kid.gone = true end }
    end
  end
  local target, plain = remote_server(ctx, opt, server, { url = s.url.value, headers = headers, sse = s.sse,
    helper = helper ~= nil, set = function(text) jsonc.set(s.url, text) end }, out)
  if helper then
    out.say[#out.say + 1] = helper_line(opt, server, helper.value, target.host, plain)
    helper_kid.gone = true
  end
end

-- ---- what stays ----------------------------------------------------------------------------------

-- The texts below a node, names too; what could keep us busy for long ends the server.
local function measure(server, node, n)
  if node.kind == "string" and #node.value > TEXT_MAX then report.fail(("%s: a text of more than %d bytes"):format(short(server), TEXT_MAX)) end
  for _, kid in ipairs(node) do
    if kid.name and #kid.name > TEXT_MAX then report.fail(("%s: a name of more than %d bytes"):format(short(server), TEXT_MAX)) end
    n = measure(server, kid.node, n + 1)
    if n > TEXTS_MAX then report.fail(("%s: more than %d members and items"):format(short(server), TEXTS_MAX)) end
  end
  return n
end

-- Every text below a node that looks like a secret and stays: adds { place, why } to `found`.
local function stays(opt, owner, node, place, name, known, found, depth)
  if node.new or opt.drops(owner, place) then return end
  if node.kind == "string" then
    opt.texts = opt.texts + 1 + #node.value // 4096
    if opt.texts > FILE_TEXTS_MAX then report.fail("the file is too large to be searched for secrets", "give the servers alone, in a file of their own") end
    local why = looks.secret(node.value, { name = name, known = known })
    if why and not opt.keeps(owner, place, name) then found[#found + 1] = { place = place, why = why } end
    return
  end
  for i, kid in ipairs(node) do
    local at = (place ~= "" and place .. "." or "") .. (kid.name or tostring(i))
    if not kid.gone and opt.drops(owner, at) then kid.gone = true end
    if not kid.gone and not kid.node.server then
      if kid.name and looks.secret(kid.name, { known = true }) then found[#found + 1] = { place = place, why = "a name in it" } end
      stays(opt, owner, kid.node, at, kid.name or name, known, found, depth + 1)
    end
  end
end

local function place_text(owner, place) return masked(report.clean(owner ~= "" and owner .. "." .. place or place)) end

-- Ends the server, or the command, where something was found.
local function refuse(owner, found, what, more)
  if #found == 0 then return end
  local list, quote = {}, require("env").quote
  for i, f in ipairs(found) do
    if i <= 5 then list[i] = ("%s (%s)"):format(place_text(owner, f.place):sub(1, 120), report.clean(f.why)) end
  end
  if #found > 5 then list[#list + 1] = ("%d more"):format(#found - 5) end
  report.fail(("%s: what looks like a secret would stay in the new file: %s"):format(what, table.concat(list, ", ")),
    ("take it out of the file, or put a variable in its place%s; if it is no secret: --keep %s"):format(more or "",
      quote(place_text(owner, found[1].place))))
end

-- What is kept is what its type takes: whatever else would fail at the first request.
local function settle(server, made)
  local policy = require "policy"
  local pol, why = require("policy_store").load(made.plain.type)
  if not pol then report.fail(("the type '%s' cannot be used: %s"):format(made.plain.type, tostring(why))) end
  local values = {}
  for name, value in pairs(made.plain.fields) do values[name] = value end
  for sealed, handle in pairs(made.secrets) do
    local name, member = sealed:match("^f/([^/]+)/?(.*)$")
    if name and member ~= "" then
      values[name] = values[name] or {}
      values[name][member] = handle
    elseif name then values[name] = handle
    end
  end
  local ok, field, message = policy.check_credential(pol, values, made.plain.hosts)
  if not ok then report.fail(("%s: it cannot be kept: %s %s"):format(short(server), field or "", tostring(message))) end
  ok, why = require("rows").check(made.plain.rows, pol, function(sealed) return made.secrets[sealed] ~= nil end,
    made.plain.placeholder ~= nil)
  if not ok then report.fail(("%s: it cannot be kept: %s"):format(short(server), why)) end
end

-- One server: { made = { { plain, secrets }… }, say = lines }. Whatever is wrong with it is an error that ends it alone.
local function one(ctx, opt, f, entry)
  local server, node = entry.name, entry.node
  if looks.secret(server, { known = true }) then report.fail(("the name of a server, %s, looks like a secret"):format(short(server))) end
  if node.kind ~= "object" then report.fail(("the server %s is not an object"):format(short(server))) end
  measure(server, node, 0)
  local s, out = file.server(f, node), { made = {}, say = {} }
  if s.remote then
    http_server(ctx, opt, server, s, out)
  elseif s.command then
    programs.server(ctx, opt, f, server, s, out, { parts_of = parts_of, varies = varies, remote = remote_server, name = credential_name,
      text = secret_text })
  elseif not f.zed then                    -- there an extension has the program, and the file its settings
    report.fail(("the server %s has neither url nor command"):format(short(server)))
  end
  local found = {}
  stays(opt, server, node, "", nil, false, found, 0)
  local oauth = jsonc.get(node, "oauth") or jsonc.get(node, "auth")
  refuse(server, found, short(server), oauth and s.url and (", or let Sallyport sign in: sallyport mcp add %s URL client_id=… client_secret=@FILE"):format(
    credential_name(opt, server)) or nil)
  for _, made in ipairs(out.made) do settle(server, made) end
  return out
end

-- ---- the command ---------------------------------------------------------------------------------

-- --keep and --drop name a place as the message does (SERVER.args.3), or the last name of it alone (BUILD_ID).
local function places(list)
  local set = {}
  for _, text in ipairs(list or {}) do set[text] = true end
  return set
end

local function options(opt)
  local keep, drop = places(opt.keep), places(opt.drop)
  opt.texts = 0
  opt.takes, opt.inputs, opt.agreed, opt.read, opt.prefix = takes_of(opt.take), inputs_of(opt.input), {}, {}, opt.prefix or ""
  if opt.prefix ~= "" and not records.name(opt.prefix) then report.usage("--prefix: letters, digits, '.', '_' and '-', first a letter or digit") end
  function opt.keeps(owner, place, name)
    return keep[place_text(owner, place)] or keep[place] or name and keep[name:gsub("^%-+", "")] or name and keep[name]
  end
  function opt.drops(owner, place) return drop[place_text(owner, place)] or owner ~= "" and drop[place] end
end

-- Is the credential that is there this one but for the values? Its paths and bundles are the operator's: a file does not
-- widen them.
local function alike(there, plain)
  local json = require "json"
  local function same(a, b) return json.encode(a or {}) == json.encode(b or {}) end
  for _, name in ipairs { "hosts", "ports", "fields", "secret_headers", "rows" } do
    if not same(there[name], plain[name]) then return false end
  end
  return there.type == plain.type and (there.plain_http or false) == (plain.plain_http or false)
end

-- Puts what is made under names, or refuses the server: `whose` has the names of before, `same` what their servers say.
local function claim(opt, entry, result, whose)
  local said = jsonc.emit(entry.node)
  for i = #result.made, 1, -1 do
    local made = result.made[i]
    local name = made.plain.name
    if whose[name] and entry.project and whose[name].said ~= entry.said then         -- the same name in another project
      name = credential_name(opt, (entry.project:match("[^/\\]+$") or "project") .. "-" .. name:sub(#opt.prefix + 1))
      made.plain.name = name
    end
    if whose[name] and whose[name].said == entry.said and whose[name].entry ~= entry then
      table.remove(result.made, i)           -- kept once, for both
    elseif whose[name] then
      whose[name].clash = true
      report.fail(("the servers '%s' and '%s' would both be kept as '%s'"):format(short(whose[name].entry.name), short(entry.name), name),
        "rename one of them")
    else
      whose[name] = { entry = entry, said = entry.said }
      local there = db.peek("credential", name, "the credential")
      if there and not opt.replace then
        report.fail(("%s: there is a credential '%s' already"):format(short(entry.name), name),
          "--prefix WORD- gives the new ones other names; --replace puts these secrets into the old one, where it is for the same host")
      elseif there and not alike(there, made.plain) then
        report.fail(("%s: the credential '%s' is for another host, or of another make, so --replace leaves it"):format(short(entry.name), name),
          "--prefix WORD- gives the new one another name")
      end
    end
  end
  return said
end

local function put_op(made)
  local store = require "store"
  local plain = made.plain
  local there, code = store.get("credential", plain.name)
  if there then                -- --replace: all but the secrets stays as it was chosen
    local secrets = {}
    for sealed, handle in pairs(there.secrets or {}) do secrets[sealed] = handle end
    for sealed, handle in pairs(made.secrets) do secrets[sealed] = handle end
    return { op = "put", db = "credential", key = plain.name, version = there.version, plain = db.plain(there), secrets = secrets }
  end
  if code == "damaged" then report.fail(("the credential '%s' is damaged on the disk and is refused"):format(plain.name), "remove it and add it again") end
  plain.created, plain.order = require("time").wall(), store.generation()
  plain.short = require("scrub").short(nil, made.secrets)
  return { op = "put", db = "credential", key = plain.name, version = 0, plain = plain, secrets = made.secrets }
end

-- Two for the same requests, of these and of those that were there: one of them would never be used.
local function overlaps(list)
  local out, seen, new = {}, {}, {}
  local function places(p, each)
    if p.rows or p.enabled == false then return end         -- what has rows goes where its placeholder stands
    for _, host in ipairs(p.hosts or {}) do
      for _, port in ipairs(p.ports or { 443 }) do
        for _, path in ipairs(p.paths or { "" }) do
          for _, bundle in ipairs(p.bundles or {}) do each(("%s %s:%d%s"):format(bundle, host, port, path)) end
        end
      end
    end
  end
  for _, m in ipairs(list) do new[m.plain.name] = true end
  for name, record in db.each("credential", "") do
    if record and not new[name] then places(record, function(place) seen[place] = seen[place] or name end) end
  end
  for _, m in ipairs(list) do
    local name, other = m.plain.name, nil
    places(m.plain, function(place)
      other = other or seen[place] ~= name and seen[place]
      seen[place] = seen[place] or name
    end)
    if other then
      out[#out + 1] = ("'%s' and '%s' are for the same requests, of which each goes out with one of them: give them to different "
        .. "agents (sallyport bundle attach BUNDLE %s, detach), or remove one"):format(other, name, name)
    end
  end
  return out
end

local function run(args, opt, ctx)
  options(opt)
  db.open(ctx)
  for _, b in ipairs(opt.bundle or {}) do db.need("bundle", b) end
  local f = file.read(ctx, args[1])
  local same = opt.out and ctx.host.realpath(opt.out)
  if same and same == ctx.host.realpath(args[1]) then
    report.usage("--out names the file that is read: its secrets would be lost if anything failed")
  end
  table.sort(f.servers, function(a, b)
    if a.name ~= b.name then return a.name < b.name end
    return a.path < b.path
  end)
  local good, bad, whose = {}, {}, {}
  for _, entry in ipairs(f.servers) do
    entry.said, entry.node.server = jsonc.emit(entry.node), true
    local ok, result = pcall(one, ctx, opt, f, entry)
    if ok then
      local fine, why = pcall(claim, opt, entry, result, whose)
      ok, result = fine, fine and result or why
    end
    if ok then good[#good + 1] = { entry = entry, result = result }
    elseif type(result) == "table" and result.exit == 1 then
      result.server = short(entry.name)
      bad[#bad + 1] = result
      entry.kid.gone = true
    else error(result, 0)
    end
  end
  for i = #good, 1, -1 do                    -- both of two that would have one name are left out
    for _, made in ipairs(good[i] and good[i].result.made or {}) do
      if whose[made.plain.name].clash then
        good[i].entry.kid.gone = true
        table.remove(good, i)
        break
      end
    end
  end
  local found = {}
  stays(opt, "", f.root, "", nil, true, found, 0)
  refuse("", found, report.clean(args[1]), (", or leave it out: --drop %s"):format(found[1] and require("env").quote(place_text("", found[1].place)) or ""))
  local refused, advice = {}, {}
  local function say(line)
    advice[#advice + 1] = line
    ctx.note(line)
  end
  for i, problem in ipairs(bad) do
    refused[i] = { server = problem.server, message = problem.message, hint = problem.hint }
    ctx.note(("not taken over: %s"):format(problem.message) .. (problem.hint and "\n  " .. problem.hint or ""))
  end
  if #good == 0 and #bad > 0 then report.fail("no server of the file could be taken over; nothing was changed") end
  local text = jsonc.file(f.root)
  if not text:find("\n$") then text = text .. "\n" end
  if opt.out then      -- first: what is kept cannot be imported a second time
    local ok, why = require("cli.files").write(ctx.host, opt.out, text, 420)   -- 0644: there is no secret in it
    if not ok then report.fail(("%s cannot be written: %s"):format(report.clean(opt.out), tostring(why))) end
  end
  local list, made, kept = {}, {}, {}
  for _, g in ipairs(good) do
    for _, m in ipairs(g.result.made) do
      list[#list + 1] = m
      made[#made + 1] = ("'%s' for %s"):format(m.plain.name, m.plain.hosts[1])
      if #list > MADE_MAX then report.fail(("more than %d credentials"):format(MADE_MAX)) end
      kept[#kept + 1] = { name = m.plain.name, server = g.entry.name, host = m.plain.hosts[1] }
    end
  end
  if #list > 0 then
    db.change(function()
      local ops = {}
      for i, m in ipairs(list) do ops[i] = put_op(m) end
      return ops
    end)
  end
  if not opt.out then ctx.out(text) end
  ctx.note(#made > 0 and ("Kept %s. The %s without their secrets; the old one still has them."):format(
    table.concat(made, ", "), opt.out and "new file names the servers" or "file on standard output names the servers")
    or "Nothing was kept.")
  local container
  for _, g in ipairs(good) do
    for _, line in ipairs(g.result.say) do say(line) end
    container = container or g.result.container and #g.result.made > 0
  end
  for _, line in ipairs(overlaps(list)) do say(line) end
  if container then say("a container has neither the proxy nor its certificate of itself: sallyport help servers") end
  if f.without and #f.without > 0 then
    say(("Of this client's own file the servers alone were taken; %d other members are not in the new one."):format(#f.without))
  end
  local answer = { credentials = report.array(kept), refused = report.array(refused), advice = report.array(advice), file = opt.out, text = text }
  if #bad == 0 then
    report.answer(ctx, answer)
    return 0
  end
  answer.error = { message = ("%d of %d servers were not taken over, and are not in the new file"):format(#f.servers - #good, #f.servers) }
  report.answer(ctx, answer)
  ctx.note("sallyport: " .. answer.error.message)
  return 1
end

return {
  words = "mcp import", args = "FILE", min = 1, max = 1, summary = "take the secrets out of a client's file of MCP servers",
  options = {
    { name = "out", arg = "FILE", help = "where the file without secrets goes; else standard output" },
    { name = "bundle", arg = "BUNDLE", many = true, help = "which bundles hold the credentials; `default` unless named" },
    { name = "take", arg = "NAME=HOST", many = true, help = "this variable's (or input's) value may be kept for this host" },
    { name = "input", arg = "ID=@FILE", many = true, whole = true, help = "what the client would ask for: ${input:ID}; or ID=-, ID=env:NAME" },
    { name = "prefix", arg = "WORD", help = "the credentials' names begin with it" },
    { name = "replace", help = "credentials that are there, for the same host, take the file's secrets" },
    { name = "keep", arg = "PLACE", many = true, whole = true, help = "what stands there is no secret, and stays: SERVER.env.NAME, or NAME" },
    { name = "drop", arg = "PLACE", many = true, whole = true, help = "what stands there is left out of the new file" },
  },
  help = [[
Reads the servers of a client's file: Claude, VS Code, Cursor, Windsurf, Cline, Gemini, Zed, opencode and others. What
is secret in the headers and the url of a server, also of one behind mcp-remote, becomes a credential for that server's
host and path; a program's secrets become one where its API is known, or where --take NAME=HOST says which host it is.
${VAR} comes from the environment, once you have seen which variable goes to which host: at the terminal it asks,
elsewhere --take names both. What is not set is asked for. What it prints is the same file without a secret, for the
sandbox. A server that cannot be taken over is named and left out, and so is one in which something looks like a secret
and would stay; the others are taken over, and the exit status is 1. `sallyport help servers` has a table of the clients.

examples:
  sallyport mcp import .mcp.json --out sandbox/.mcp.json
  GH_TOKEN=$(pass show gh) sallyport mcp import ~/project/.mcp.json --take GH_TOKEN=api.example.com > sandbox.json
  sallyport mcp import .vscode/mcp.json --input github_mcp_pat=@pat.txt --take github_mcp_pat=api.githubcopilot.com
]], run = run,
}
