--- Clients' files of MCP servers: where the servers stand in them, and how each client spells what a server is made of.
local jsonc = require "cli.jsonc"
local report = require "cli.report"
local M = {}

local FILE_MAX = 8 << 20     -- bytes: the CLI's own file has all its projects
local SERVERS_MAX = 200
local DEEP = 6               -- how far below the top a client may keep its servers

-- Members that hold the servers by their names, wherever they stand: Claude Code and Desktop, Cursor, Windsurf, Cline, Roo,
-- Gemini, Copilot, Amazon Q, JetBrains, LM Studio; Zed; Continue's older file; Codex's table as JSON. A dotted name counts by its
-- end ("amp.mcpServers").
local holders = { mcpServers = true, context_servers = true, modelContextProtocolServers = true, mcp_servers = true }

-- What says that an object is a server.
local server_words = { "url", "serverUrl", "httpUrl", "baseUrl", "command", "cmd", "transport" }

local function is_server(node)
  for _, name in ipairs(server_words) do
    if jsonc.get(node, name) then return true end
  end
  return false
end

local function any_object(node)
  for _, kid in ipairs(node) do
    if kid.node.kind == "object" then return true end
  end
  return false
end

local function is_holder(name, node, depth, above)
  if not (node.kind == "object" or node.kind == "array" and any_object(node)) then return false end
  local last = name:match("[^.]+$") or name
  if holders[last] then return true end
  if last == "servers" then return depth == 1 or above == "mcp" or name == "mcp.servers" end      -- VS Code, Visual Studio
  if last == "mcp" and node.kind == "object" then           -- opencode, Crush
    for _, kid in ipairs(node) do
      if kid.node.kind == "object" and is_server(kid.node) then return true end
    end
  end
  return false
end

-- Every holder below a node: { node, path }
local function find(node, out, path, depth, above)
  for i, kid in ipairs(node) do
    local name = kid.name or tostring(i)
    local at = path .. (path ~= "" and "." or "") .. name
    if kid.name and is_holder(name, kid.node, depth, above) then
      out[#out + 1] = { node = kid.node, path = at, holder = name }
    elseif depth < DEEP and (kid.node.kind == "object" or kid.node.kind == "array") then
      find(kid.node, out, at, depth + 1, name)
    end
  end
  return out
end

local yaml_or_toml = {
  { "^[$ ]*[%w-]+ mcp add", "is a command line, not a file", "let its client run it, and import the client's file; or, where the server asks "
    .. "for a sign-in: sallyport mcp add NAME URL" },
  { "^%s*%[[%w_.\"-]+%]", "is TOML, which is not read here", "Codex: in its config.toml a server takes its token from a variable "
    .. "(bearer_token_env_var, env_http_headers). Keep the token here, and take it out of the file:\n"
    .. "    sallyport credential add NAME --type bearer --host HOST token=-" },
  { "^%s*[%w_-]+:[ \r\n]", "is YAML, which is not read here", "Goose, Continue: keep the token here, and take it out of the file:\n"
    .. "    sallyport credential add NAME --type bearer --host HOST token=-" },
}

-- What a file that is no JSON is instead.
local function other_language(text)
  local lines = "\n" .. text:sub(1, 4096):gsub("^\239\187\191", ""):gsub("\n%s*#[^\n]*", "\n"):gsub("^%s*#[^\n]*", "")
  for _, t in ipairs(yaml_or_toml) do
    if lines:gsub("^%s+", ""):find(t[1]) or t[2]:find("TOML", 1, true) and lines:find("\n%[[%w_.\"-]+%]") then return t[2], t[3] end
  end
end

-- How a client writes a variable of its environment: ref(NAME) -> text; nil: it knows no variables, or none that we know of.
local function reference(path, text, found)
  local base = path:match("[^/\\]+$") or path
  local function style(form)
    return function(name) return (form:gsub("NAME", name)) end
  end
  local holder = found[1] and found[1].holder or ""
  if base == "claude_desktop_config.json" or base == "cline_mcp_settings.json" or holder:find("context_servers", 1, true)
    or path:find("lm%-?studio") then
    return nil
  end
  if text:find("{env:", 1, true) and not text:find("${env:", 1, true) or holder == "mcp" then return style("{env:NAME}") end
  if text:find("${env:", 1, true) or holder:find("servers$") and not holder:find("mcp_servers", 1, true) or path:find("%.cursor/")
    or path:find("%.vscode/") or path:find("windsurf", 1, true) or path:find("%.roo/") then
    return style("${env:NAME}")
  end
  return style("${NAME}")
end

-- Claude Code's own file has its history, its account and every project's path beside the servers: of it nothing but the
-- servers, and what was chosen about them, goes into the new file. The names of the members that are left out, or nil.
local function only_servers(root, path, found)
  local own = path:match("[^/\\]+$") == ".claude.json"
  for _, f in ipairs(found) do own = own or f.path:find("^projects%.") ~= nil end
  if not own then return nil end
  local out = {}
  for _, kid in ipairs(root) do
    if kid.name == "projects" and kid.node.kind == "object" then
      for _, project in ipairs(kid.node) do
        local servers = jsonc.get(project.node, "mcpServers")
        project.gone = not servers or #servers == 0
        for _, member in ipairs(project.node) do member.gone = member.gone or not member.name or not member.name:lower():find("mcp") end
      end
      kid.gone = jsonc.empty(kid.node)
    elseif kid.name ~= "mcpServers" then
      kid.gone = true
      out[#out + 1] = kid.name
    end
  end
  return out
end

--- The file: { root, found = holders, servers = { { name, kid, node, project, at }… }, ref, gemini, zed, without = what of Claude
-- Code's own file is left out }. Ends the command where there is none.
function M.read(ctx, path)
  local shown = report.clean(path)
  -- A pipe that somebody laid there would be waited for; one of the shell's own, <(command), is meant.
  local there = not path:find("^/dev/fd/") and path ~= "/dev/stdin" and ctx.host.stat(ctx.host.realpath(path) or path)
  if there and (there.type == "other" or there.type == "socket") then report.fail(("%s is no plain file"):format(shown)) end
  local text, why = ctx.host.read_file(path, FILE_MAX)
  if not text then report.fail(("%s cannot be read: %s"):format(shown, why == "absent" and "there is no such file" or why)) end
  local root, hint
  root, why, hint = jsonc.parse(text)
  if not root then
    local other, advice = other_language(text)
    if other and not text:find("^%s*{") then why, hint = other, advice end
    report.fail(("%s %s"):format(shown, why), hint)
  end
  local found = root.kind == "object" and find(root, {}, "", 1) or {}
  if #found == 0 and root.kind == "object" and is_server(root) then         -- one server alone
    found[1] = { node = { kind = "object", { name = "server", node = root } }, path = "", holder = "" }
  elseif #found == 0 and (root.kind == "object" or root.kind == "array") and #root > 0 and any_object(root) then
    for _, kid in ipairs(root) do
      if is_server(kid.node) then found[1] = { node = root, path = "", holder = "" } end
    end
  end
  if #found == 0 then
    report.fail(("%s has no MCP servers in it that are known here: no mcpServers, servers, context_servers or mcp"):format(shown),
      "of another client's file, write the servers as {\"mcpServers\": {\"NAME\": {\"type\": \"http\", \"url\": …, \"headers\": {…}}}}")
  end
  local servers = {}
  for _, f in ipairs(found) do
    for i, kid in ipairs(f.node) do
      local name = kid.name or jsonc.text(kid.node, "name") or jsonc.text(kid.node, "key") or jsonc.text(kid.node, "id") or tostring(i)
      servers[#servers + 1] = { name = name, kid = kid, node = kid.node, path = f.path,
        project = f.path:match("^projects%.(.+)%.mcpServers$") }
    end
  end
  if #servers > SERVERS_MAX then report.fail(("more than %d servers"):format(SERVERS_MAX)) end
  local gemini = path:find("%.gemini/") or path:find("%.qwen/")
  for _, s in ipairs(servers) do gemini = gemini or jsonc.get(s.node, "httpUrl") end
  local zed = found[1].holder:find("context_servers", 1, true) ~= nil
  return { root = root, found = found, servers = servers, ref = reference(path, text, found), gemini = gemini and true, zed = zed,
    without = only_servers(root, path, found) }
end

-- ---- one server ----------------------------------------------------------------------------------

-- In this order, for Gemini takes httpUrl before url.
local url_words = { "httpUrl", "serverUrl", "serverURL", "url", "baseUrl", "sseUrl", "uri", "endpoint" }
local env_words = { "env", "environment", "envs", "envVars" }

--- The first member of these names that is there: its node and kid, and the object that it stands in.
local function first(nodes, names)
  for _, node in ipairs(nodes) do
    for _, name in ipairs(names) do
      local found, kid = jsonc.get(node, name)
      if found then return found, kid, node end
    end
  end
end

-- Places of a server that may have an address, a program or headers: itself, `transport` and the `requestOptions` of
-- either (Continue), `requestInit` (the SDK's own name).
local function parts_of(node, out)
  out = out or {}
  out[#out + 1] = node
  for _, name in ipairs { "transport", "requestOptions", "requestInit", "config" } do
    local part = #out < 8 and jsonc.get(node, name)
    if part and part.kind == "object" then parts_of(part, out) end
  end
  return out
end

local streamable = { http = true, streamablehttp = true, remote = true }

--- What a server is made of: { url = node, headers = list of objects, env = object, command, args = nodes, sse, remote }.
-- Nodes that are no text, list or object are as they came: who uses them says so.
function M.server(file, node)
  local parts = parts_of(node)
  local s = { headers = {}, parts = parts }
  s.url, s.url_kid = first(parts, url_words)
  for _, part in ipairs(parts) do
    for _, name in ipairs { "headers", "http_headers", "httpHeaders" } do
      local headers, kid = jsonc.get(part, name)
      if headers then s.headers[#s.headers + 1] = { node = headers, kid = kid } end
    end
  end
  s.command = first(parts, { "command", "cmd" })
  local program = s.command and s.command.kind == "object" and s.command     -- Zed's older form
  if program then s.command = jsonc.get(program, "path") end
  s.args = program and jsonc.get(program, "args") or first(parts, { "args", "arguments" })
  s.env, s.env_kid = first(program and { program, node } or parts, env_words)
  local kind = ""
  for _, part in ipairs(parts) do
    for _, name in ipairs { "type", "transport", "transportType" } do
      if kind == "" then kind = (jsonc.text(part, name) or ""):lower():gsub("[-_ ]", "") end
    end
  end
  s.type = kind
  local path = s.url and s.url.kind == "string" and s.url.value:match("^[^?#]*") or ""
  s.sse = kind == "sse" or path:find("/sse/?$") ~= nil or file.gemini and not streamable[kind] and s.url_kid and s.url_kid.name == "url"
  s.remote = s.url ~= nil and (not s.command or kind == "sse" or streamable[kind] == true)
  return s
end

return M
