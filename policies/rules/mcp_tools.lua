--- Which tools of an MCP server may be called, and seen.
--
--   sallyport rule add careful --type mcp_tools --host mcp.acme.test allow='read_*' allow=search
--   sallyport rule add nodrop --type mcp_tools deny='*delete*' deny=drop_database
--
-- A call (`tools/call` in a POST's body, each of a batch) goes on if a pattern of `allow` fits the tool's name, or there is none, and
-- none of `deny` does (`*`: any text). Other methods go on, unless methods=deny: then the handshake, pings, notifications and
-- lists alone do. What the head mirrors (Mcp-Method, Mcp-Name) has to say what the body says. A body that is no JSON, has a member
-- twice, or members that only look like the protocol's, is refused. From lists of tools, JSON and streams, what may not be called is taken out.
local open = { initialize = true, ping = true, ["tools/list"] = true, ["resources/list"] = true, ["resources/templates/list"] = true,
  ["prompts/list"] = true, ["server/discover"] = true, ["logging/setLevel"] = true }
local protocol = { method = true, params = true, name = true, jsonrpc = true, id = true }

-- A name that some reader takes for one of the protocol's.
local function odd(t)
  for k in pairs(t) do
    if not protocol[k] and type(k) == "string" and protocol[k:gsub("%z.*", ""):lower()] then return k end
  end
end

-- What refuses one message: a text, or nil; its method and tool.
local function judge(rule, m)
  if type(m) ~= "table" or m[1] ~= nil then return "a message is no object" end
  if odd(m) then return "a member only looks like the protocol's" end
  if m.method == nil then return nil end        -- an answer to what the server asked
  if type(m.method) ~= "string" then return "the method is no text" end
  if open[m.method] then return nil, m.method end
  if m.method:find("%c") then return "the method has a control byte" end
  if m.method ~= "tools/call" and m.method:lower():gsub("%W", "") == "toolscall" then return "the method only looks like tools/call" end
  if m.method ~= "tools/call" then
    if rule.methods == "deny" and not m.method:find("^notifications/") then return ("the method %s is not allowed here"):format(m.method:gsub("[%c\128-\255]", "?"):sub(1, 80)) end
    return nil, m.method
  end
  local params = m.params
  if type(params) ~= "table" or odd(params) or type(params.name) ~= "string" then return "the call names no tool" end
  if params.name:find("%c") then return "the tool's name has a control byte" end
  if rule.allow[1] and not fits(rule.allow, params.name) or fits(rule.deny, params.name) then
    return ("the tool %s is not allowed here"):format(params.name:gsub("[%c\128-\255]", "?"):sub(1, 80))
  end
  return nil, m.method, params.name
end

return {
  kind = "rule", api = 1, name = "mcp_tools", title = "Which tools of an MCP server may be called",
  fields = {
    { name = "allow", type = "list", default = {}, help = "Patterns of tools that may be called; without: all" },
    { name = "deny", type = "list", default = {}, help = "Patterns of tools that may not" },
    { name = "methods", type = "enum", values = { "allow", "deny" }, default = "allow", help = "Other methods than calls and lists" },
  },
  body = {},
  tools = function(rule) return { allow = rule.allow, deny = rule.deny } end,
  on_request = function(req, ctx)
    if req.method ~= "POST" then return nil end
    local body, why = req.json()
    if type(body) ~= "table" then return deny(("the body cannot be read: %s"):format(why or "it is no message")) end
    local batch = body[1] ~= nil
    local rule, headers = ctx.rule, req.headers
    local told = headers:get("mcp-method")
    for i = 1, batch and #body or 1 do
      local refused, method, tool = judge(rule, batch and body[i] or not batch and body)
      if refused then return deny(refused) end
      local named = tool and headers:get("mcp-name")
      if told and (batch or told ~= method) or named and named ~= tool then return deny("what the head mirrors is not what the body says") end
    end
  end,
  examples = {
    { rule = { allow = { "read_*" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read_page"}}' } },
    { rule = { allow = { "read_*" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop"}}' }, want = "the tool drop is not allowed here" },
    { rule = { deny = { "*delete*" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"page_delete_all"}}' }, want = true },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '[{"jsonrpc":"2.0","id":1,"method":"tools/list"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"drop"}}]' }, want = "the tool drop is not allowed here" },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"Method":"tools/call","method":"tools/list","params":{"name":"drop"}}' }, want = true },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"Tools/Call","params":{"name":"drop"}}' }, want = true },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json", ["mcp-method"] = "tools/call", ["mcp-name"] = "drop" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read"}}' }, want = true },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}' } },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '[[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop"}}]]' }, want = true },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"drop\\u0000"}}' }, want = true },
    { rule = { methods = "deny" }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x"}}' }, want = "the method resources/read is not allowed here" },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = 'x' }, want = true },
    { rule = { deny = { "drop" } }, req = { method = "GET" } },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json; charset=utf-7" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}' }, want = "the body cannot be read: the body is not UTF-8" },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json; charset=UTF-8" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}' } },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json; charset=iso-8859-1" }, body = '{"jsonrpc":"2.0","id":1,"method":"tools/list"}' } },
    { rule = { deny = { "drop" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"jsonrpc":"2.0","id":1,"method":"notifications/x\\n"}' }, want = "the method has a control byte" },
  },
}
