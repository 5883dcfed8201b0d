--- Programs among a client's MCP servers: those that only reach a server at an address (mcp-remote and its kin), and those
-- whose secrets come through their environment or their arguments, in a container or not.
local jsonc = require "cli.jsonc"
local looks = require "cli.looks"
local records = require "records"
local report = require "cli.report"
local M = {}

-- ---- bridges -------------------------------------------------------------------------------------

-- How each takes a header ("NAME: VALUE" behind one of these, or NAME and VALUE as two arguments), a bearer token, its
-- address; which of its variables is a bearer token; and what says that it speaks HTTP+SSE.
local bridges = {
  ["mcp-remote"] = { sse = { "^%-%-transport$", "^sse" } },
  ["supergateway"] = { bearer = { ["--oauth2Bearer"] = true }, sse = { "^%-%-sse$" } },
  ["mcp-proxy"] = { pair = true, env = "API_ACCESS_TOKEN", sse_unless = { "^%-%-transport$", "^streamable" } },
}
local header_options = { ["--header"] = true, ["--headers"] = true, ["-H"] = true }

-- "npx", "mcp-remote@0.1.16", "/opt/x/mcp-remote.js" -> the word without folder, version and ending.
local function base_of(text)
  return ((text:match("[^/\\]+$") or text):gsub("(.)@[^@]*$", "%1"):gsub("%.%a+$", ""))
end

-- Command and arguments: { text, node, drop(), place }
local function words_of(server, s)
  local words = {}
  local function list(node, name)
    for i, kid in ipairs(node) do
      if kid.node.kind == "string" then
        words[#words + 1] = { text = kid.node.value, node = kid.node, kid = kid, place = ("%s.%d"):format(name, i), drop = function() kid.gone = true end }
      end
    end
  end
  if s.command.kind == "array" then list(s.command, "command")
  elseif s.command.kind == "string" then words[1] = { text = s.command.value, node = s.command, place = "command" }
  else report.fail(("%s: its command is neither a text nor a list"):format(report.clean(server):sub(1, 60)))
  end
  if s.args and s.args.kind == "array" then list(s.args, "args") end
  return words
end

-- The address and the headers that a bridge is given, or nil: it is none.
local function bridge_of(words, env)
  local known
  for _, w in ipairs(words) do known = known or bridges[base_of(w.text)] end
  local kind, url, headers, sse = known or {}, nil, {}, nil
  local function matches(pattern, i)
    return pattern and words[i].text:find(pattern[1]) and (not pattern[2] or words[i + 1] and words[i + 1].text:find(pattern[2])) and true
  end
  local function header(name, value, ...)
    local dropped = { ... }
    headers[#headers + 1] = { name = name, value = value, drop = function()
      for _, w in ipairs(dropped) do w.drop() end
    end }
  end
  local unless, i = false, 1
  while i <= #words do
    local w = words[i]
    local option, value = w.text:match("^(%-%-?[%w-]+)=(.*)$")
    local from = option and w or words[i + 1]
    option, value = option or w.text, value or from and from.text
    sse, unless = sse or matches(kind.sse, i), unless or matches(kind.sse_unless, i)
    if header_options[option] and from then
      if kind.pair and from ~= w and words[i + 2] then
        header(value, words[i + 2].text, w, from, words[i + 2])
        i = i + 2
      else
        local first = true
        repeat      -- supergateway takes several behind one
          local name, rest = value:match("^%s*([%w!#$%%&'*+.^_`|~-]+)%s*:%s*(.-)%s*$")
          if not name then break end
          if first and from ~= w then header(name, rest, w, from) else header(name, rest, from) end
          if from ~= w then i = i + 1 end
          first, from = false, words[i + 1]
          value = from and from.text or "-"
        until value:find("^%-") or value:find("^%a+://") or w.text ~= option
      end
    elseif kind.bearer and kind.bearer[option] and from then
      header("Authorization", "Bearer " .. value, w, from ~= w and from or nil)
      i = from ~= w and i + 1 or i
    elseif not url and w.text:find("^https?://") then url = w
    elseif not url and option ~= w.text and value:find("^https?://") then return nil     -- --url=…: which part of it to change is not known
    end
    i = i + 1
  end
  if not url or not (known or #headers > 0 or looks.secret(url.text, { uuid = true })) then return nil end
  local token = kind.env and env[kind.env]
  if token and token.node.kind == "string" and token.node.value ~= "" then
    headers[#headers + 1] = { name = "Authorization", value = "Bearer " .. token.node.value, drop = function() token.gone = true end }
  end
  sse = sse or kind.sse_unless and not unless
  return { url = url, headers = headers, sse = sse or url.text:match("^[^?#]*"):find("/sse/?$") ~= nil }
end

-- A program that reaches a server: as a server at that address. Its variables stand in for ${NAME} in its arguments.
local function bridge(ctx, opt, server, s, words, env, out, h)
  local b = bridge_of(words, env)
  if not b then return end
  local function filled(text, used)
    return (text:gsub("%${([%a_][%w_]*)}", function(name)
      local kid = env[name]
      if not kid or kid.node.kind ~= "string" then return nil end
      used[name] = kid
      return kid.node.value
    end))
  end
  local gone = {}
  for _, header in ipairs(b.headers) do
    local used, drop = {}, header.drop
    header.value = filled(header.value, used)
    header.drop = function()
      drop()
      for name, kid in pairs(used) do gone[name] = kid end
    end
  end
  local used = {}
  h.remote(ctx, opt, server, { url = filled(b.url.text, used), headers = b.headers, sse = b.sse, set = function(text)
    jsonc.set(b.url.node, text)
    for name, kid in pairs(used) do gone[name] = kid end
  end }, out)
  local left = {}
  for _, part in ipairs { s.command, s.args } do left[#left + 1] = jsonc.emit(part) end
  left = table.concat(left, "\n")
  for name, kid in pairs(gone) do
    if not left:find("${" .. name .. "}", 1, true) then kid.gone = true end
  end
  return b
end

-- ---- secrets of programs -------------------------------------------------------------------------

-- Variables of well-known MCP servers, and the preset of the API that they are a key of; presets know further ones.
local also = {
  GITHUB_PERSONAL_ACCESS_TOKEN = "github", GITHUB_PAT = "github", GITLAB_PERSONAL_ACCESS_TOKEN = "gitlab", FIGMA_ACCESS_TOKEN = "figma",
  SENTRY_ACCESS_TOKEN = "sentry", LINEAR_API_TOKEN = "linear", AIRTABLE_PAT = "airtable", STRIPE_KEY = "stripe",
}
local secret_field = { bearer = "token", api_key = "key", body_parameter = "value" }

local function usable(p)
  local field = p and secret_field[p.type]
  if not field or p.rows or require("presets").gap(p) then return nil end
  for label in pairs(p.ask or {}) do
    if label ~= field then return nil end
  end
  return p, field
end

-- The preset whose key this is, by the variable that holds it, else by the letters that it begins with.
local function preset_of(name, value)
  local pol = require("presets").load()
  if not pol then return nil end
  if name and also[name] and usable(pol.by_preset[also[name]]) then return usable(pol.by_preset[also[name]]) end
  local best, length = nil, 3
  for _, p in ipairs(pol.presets) do
    for _, env in ipairs(p.env or {}) do
      if env == name and usable(p) then return usable(p) end
    end
    local lead = p.placeholder and p.placeholder:match("^[^{]*") or ""
    if #lead > length and value:sub(1, #lead) == lead and usable(p) then best, length = p, #lead end
  end
  return usable(best)
end

-- The preset of which this variable is a key that it does not go without others (AWS, Jira), for the advice.
local function preset_named(name)
  local pol = name and require("presets").load()
  for _, p in ipairs(pol and pol.presets or {}) do
    if also[name] == p.name then return p.name end
    for _, env in ipairs(p.env or {}) do
      if env == name then return p.name end
    end
  end
  return name and name:find("^AWS_") and "aws" or nil
end

-- A text of a shape that is nobody's key, for clients that fill in no variables.
local function filled_shape(shape)
  return (shape:gsub("{(%d+):?%a*}", function(n) return ("0"):rep(tonumber(n)) end))
end

local function has(list, word)
  for _, w in ipairs(list) do
    if w == word then return true end
  end
  return false
end

-- What no placeholder can stand for, for it is not sent over HTTP as it is.
local function not_sent(text)
  local scheme = text:match("^(%a[%w+.-]*)://[^/%s]*@")
  return scheme ~= nil or text:find("-----BEGIN", 1, true) ~= nil
end

-- One secret of a program: the text in its place in the new file, or nil: nothing can stand there.
local function take_one(ctx, opt, f, server, name, text, ref, out, h)
  local quote = require("env").quote
  local label = name or "key"
  local cred = h.name(opt, server .. "-" .. label:lower():gsub("[^%w_-]", ""))
  local env = name and records.env_name(name)
  local literal = ("__%s__"):format((name or server .. "_KEY"):upper():gsub("[^%w]", "_"))
  local target, preset, field
  local parts, wanted = h.parts_of(text), name
  local var = #parts == 1 and type(parts[1]) == "table" and parts[1] or nil
  if var then wanted = var[1] end
  local several = {}
  for _, t in ipairs(opt.takes) do
    if t.name == wanted then several[#several + 1] = t end
  end
  if #several == 1 then                            -- of two hosts none is guessed
    local t = several[1]
    target = { scheme = t.scheme or "https", host = t.host, port = t.port or (t.scheme == "http" and 80 or 443) }
  end
  preset, field = preset_of(name, var and "" or text)
  if target and not (preset and target.scheme == "https" and target.port == 443 and has(preset.hosts, target.host)) then preset = nil end
  if var and not target then preset = nil end        -- its host is to be named
  if not target and not preset then
    local known = preset_named(name)
    local how = known and ("sallyport credential add %s --preset %s%s"):format(cred, known, ref and also[name] and " --env " .. quote(name) or "")
      or ("sallyport credential add %s --type substitute --host HOST --substitute value:header=Authorization%s value=-"):format(cred,
        ref and " --env " .. quote(name) or ":" .. literal)
    out.say[#out.say + 1] = ("%s: %s is a secret in its %s. To replace it, name the host that it goes to: --take %s, or\n    %s")
      :format(report.clean(server):sub(1, 60), report.clean(label), name and "environment" or "arguments",
        quote(report.clean(wanted or "NAME") .. "=HOST"), how)
    return name and (ref or literal) or nil
  end
  local plain = { name = cred, enabled = true, bundles = opt.bundle or { "default" }, ports = { 443 }, fields = {} }
  if preset then
    local copied = require("presets").copied
    plain.type, plain.preset, plain.hosts = preset.type, preset.name, copied(preset.hosts)
    plain.paths = #preset.paths > 0 and copied(preset.paths) or nil
    plain.methods = #preset.methods > 0 and copied(preset.methods) or nil
    for k, v in pairs(preset.fields) do plain.fields[k] = type(v) == "table" and copied(v) or v end
    plain.headers = next(preset.headers) and copied(preset.headers) or nil
    if ref then plain.env, plain.placeholder = env, preset.placeholder end
    target = target or { scheme = "https", host = plain.hosts[1], port = 443 }
  else
    field = "value"
    plain.type, plain.hosts, plain.ports, plain.plain_http = "substitute", { target.host }, { target.port }, target.scheme == "http" or nil
    plain.rows = { require("rows").parse("value:header=Authorization,basic,header=X-Api-Key" .. (ref and "" or ":" .. literal)) }
    if ref then plain.env, plain.placeholder = env, require("presets").shape_for(env, plain.hosts) end
  end
  out.made[#out.made + 1] = { plain = plain, secrets = { ["f/" .. field] = h.text(ctx, opt, text, server .. ", " .. label, target) } }
  return ref or (preset and preset.placeholder and filled_shape(preset.placeholder)) or literal
end

-- A file of variables stays what it is: whoever wrote the client's file has chosen which one it is.
local function files_of_variables(server, node, words, out)
  local shown, seen = report.clean(server):sub(1, 60), {}
  local function say(path)
    if seen[path] then return end
    seen[path] = true
    out.say[#out.say + 1] = ("%s: its variables come from %s, which is not read here, for the file that names it may be an agent's. "
      .. "If there are secrets in it, give each a credential, and the sandbox a file without them:\n"
      .. "    sallyport credential add NAME --type substitute --host HOST --substitute value:header=Authorization --env VARIABLE value=-")
      :format(shown, report.clean(path):sub(1, 200))
  end
  for i, w in ipairs(words) do
    local path = w.text:match("^%-%-env%-file%-?%l*=(.+)$") or w.text:find("^%-%-env%-file%-?%l*$") and words[i + 1] and words[i + 1].text
    if path then say(path) end
  end
  for _, name in ipairs { "envFile", "env_file" } do
    local path = jsonc.text(node, name)
    if path then say(path) end
  end
end

local containers = { docker = true, podman = true, nerdctl = true }

-- As above. Of a document with headers in it (OPENAPI_MCP_HEADERS) the bearer token alone is replaced.
local function take(ctx, opt, f, server, name, text, out, h)
  if not_sent(text) then return nil end
  local before, token, behind = text:match("^(%s*{.*[Bb]earer )([%w_.~+/=-]+)(.*)$")
  if before and not looks.secret(before .. behind) then
    local put = take_one(ctx, opt, f, server, name, token, nil, out, h)
    return put and before .. put .. behind
  end
  local env = name and records.env_name(name)
  return take_one(ctx, opt, f, server, name, text, env and f.ref and f.ref(env) or nil, out, h)
end

--- A server that is a program. h = what mcp_import lends: parts_of, remote, name, text.
function M.server(ctx, opt, f, server, s, out, h)
  local env = {}
  if s.env and s.env.kind ~= "object" and s.env.value ~= require("json").null then
    report.fail(("%s: its %s is not an object"):format(report.clean(server):sub(1, 60), s.env_kid.name))
  end
  for _, kid in ipairs(s.env and s.env.kind == "object" and s.env or {}) do env[kid.name] = kid end
  local words = words_of(server, s)
  local reached = bridge(ctx, opt, server, s, words, env, out, h)
  files_of_variables(server, s.parts[1], words, out)
  for _, w in ipairs(words) do out.container = out.container or containers[base_of(w.text)] end
  local function stays(w) return not w.node.new and not (w.kid and w.kid.gone) end
  local function secret(text, name) return looks.secret(text, { name = name }) or looks.named(name, text) end
  for i, w in ipairs(words) do                     -- docker run -e NAME=VALUE, --env=NAME=VALUE; env NAME=VALUE program
    local before, name, value = w.text:match("^(%-%-env=)([%a_][%w_]*)=(.+)$")
    if not before then before, name, value = w.text:match("^(%-e=?)([%a_][%w_]*)=(.+)$") end
    if not before then before, name, value = w.text:match("^()([%u_][%u%d_]*)=(.+)$") end
    if not before and (words[i - 1] and (words[i - 1].text == "-e" or words[i - 1].text == "--env")) then
      name, value = w.text:match("^([%a_][%w_]*)=(.+)$")
    end
    if name and stays(w) and secret(value, name) and not opt.keeps(server, w.place, name) then
      local text = take(ctx, opt, f, server, name, value, out, h)
      if text then jsonc.set(w.node, (type(before) == "string" and before or "") .. name .. "=" .. text) end
    end
  end
  local names = {}
  for name in pairs(env) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local kid = env[name]
    if not kid.gone and kid.node.kind == "string" and secret(kid.node.value, name) and not opt.keeps(server, s.env_kid.name .. "." .. name, name) then
      local text = take(ctx, opt, f, server, name, kid.node.value, out, h)
      if text then jsonc.set(kid.node, text) end
    end
  end
  if s.env and s.env.kind == "object" and #s.env > 0 and jsonc.empty(s.env) then s.env_kid.gone = true end
  for i, w in ipairs(words) do
    local option = words[i - 1] and words[i - 1].text:match("^%-%-?[%w][%w-]*$")
    local why = stays(w) and not w.text:find("^%-%-?[%w-]+$") and looks.secret(w.text, { name = option })
    if why and not opt.keeps(server, w.place, option) then
      local lead, value = w.text:match("^(%-%-?[%w-]+=)(.+)$")
      local text = (option or lead) and preset_of(nil, value or w.text) and take(ctx, opt, f, server, nil, value or w.text, out, h)
      if text then jsonc.set(w.node, (lead or "") .. text)
      else
        report.fail(("%s: what looks like a secret would stay in the new file: %s (%s)"):format(report.clean(server):sub(1, 60),
          report.clean(server .. "." .. w.place):sub(1, 120), report.clean(why)),
          (reached and "Sallyport can sign in for it: sallyport mcp add NAME URL client_id=… client_secret=@FILE; if it is no secret: --keep %s"
            or "give it to the program by a variable of its environment, if it takes one; if it is no secret: --keep %s"):format(
            require("env").quote(report.clean(server .. "." .. w.place))))
      end
    end
  end
end

return M
