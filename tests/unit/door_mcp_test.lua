-- lua/web/mcp.lua: what a request to an MCP server at the door asks for, judged by the connection's scopes; by the revisions
-- 2025-11-25 and 2026-07-28 (R4, R6 of the checklist).
local mcp = require "web.mcp"
local json = require "json"

require("web.access").issuer = function() return "https://box.example.org" end   -- no store here

local record = { name = "tools", url = "https://tools.internal/mcp", read = { "list_*", "get_page" },
  scopes = { { name = "entities:write", says = "…", tools = { "create_*", "update_*" } }, { name = "admin:all", says = "…", tools = { "*_user" } } } }

local function may(...)
  local scopes = {}
  for _, s in ipairs { ... } do scopes[s] = true end
  return { gateway = "tools", record = record, connection = "c1", scopes = scopes }
end

local function post(f, body, more)
  local fields = { ["content-type"] = "application/json" }
  for k, v in pairs(more or {}) do fields[k] = v end
  return mcp.judge(f, "POST", fields, type(body) == "string" and body or json.encode(body))
end

local function call(name, more)
  local m = { jsonrpc = "2.0", id = 1, method = "tools/call", params = { name = name, arguments = {} } }
  for k, v in pairs(more or {}) do m.params[k] = v end
  return m
end

local function passes(f, body, more)
  local got, answer = post(f, body, more)
  assert(got, answer and answer.status .. " " .. answer.body)
  return got
end

local function refused(status, code, f, body, more)
  local got, answer = post(f, body, more)
  assert(not got, "it passed")
  assert(answer.status == status, answer.status .. " " .. answer.body)
  local said = json.decode(answer.body)
  assert((type(said.error) == "table" and said.error.code or said.error) == code, answer.body)
  return answer, said
end

local function lacks(scope, f, body, more)
  local answer = refused(403, "insufficient_scope", f, body, more)
  local field
  for _, h in ipairs(answer.headers) do field = h[1] == "WWW-Authenticate" and h[2] or field end
  assert(field and field:find('scope="' .. scope .. '"', 1, true), field)
end

return {
  ["a tool needs what its scopes say, else tools:execute, or less where it only reads (R4)"] = function()
    passes(may "tools:execute", call "run")
    lacks("tools:execute", may("tools:read", "entities:write"), call "run")
    passes(may "tools:read", call "list_pages")
    passes(may "tools:execute", call "get_page")
    lacks("tools:read", may "resources:read", call "get_page")
    lacks("entities:write", may("tools:execute", "tools:read"), call "create_page")
    passes(may "entities:write", call "create_page")
    lacks("entities:write admin:all", may "entities:write", call "create_user")
    passes(may("entities:write", "admin:all"), call "create_user")
    assert(passes(may "tools:execute", call "run").name == "run")
  end,

  ["methods need their scopes, and one that is unknown what executes"] = function()
    local function m(method, params) return { jsonrpc = "2.0", id = 1, method = method, params = params } end
    for _, method in ipairs { "initialize", "ping", "server/discover", "logging/setLevel", "notifications/initialized", "notifications/cancelled" } do
      passes(may(), m(method))
    end
    lacks("tools:read", may "resources:read", m "tools/list")
    passes(may "tools:execute", m "tools/list")
    for _, method in ipairs { "resources/list", "resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe" } do
      lacks("resources:read", may "tools:execute", m(method, { uri = "file:///x" }))
      passes(may "resources:read", m(method, { uri = "file:///x" }))
    end
    for _, method in ipairs { "prompts/list", "prompts/get" } do
      lacks("prompts:read", may "tools:execute", m(method, { name = "p" }))
    end
    lacks("tools:execute", may("tools:read", "resources:read", "prompts:read"), m "vendor/do")
    passes(may "tools:execute", m "tasks/result")
    lacks("resources:read", may "prompts:read", m("completion/complete", { ref = { type = "ref/resource", uri = "x" } }))
    passes(may "prompts:read", m("completion/complete", { ref = { type = "ref/prompt", name = "x" } }))
    lacks("resources:read", may "tools:read", m("subscriptions/listen", { notifications = { resourceSubscriptions = { "file:///x" } } }))
    passes(may "tools:read", m("subscriptions/listen", { notifications = { toolsListChanged = true, promptsListChanged = false } }))
  end,

  ["a subscription for more than is allowed goes on for what is, and for nothing else"] = function()
    local function m(asked) return { jsonrpc = "2.0", id = "a", method = "subscriptions/listen", params = { notifications = asked, _meta = { x = {} } } } end
    local all = { toolsListChanged = true, promptsListChanged = true, resourcesListChanged = true, resourceSubscriptions = { "file:///x" }, PromptsListChanged = 1, new = true }
    local sent = json.decode(passes(may "tools:read", m(all)).body)
    assert(sent.id == "a" and sent.method == "subscriptions/listen" and sent.params._meta.x)
    local left = {}
    for k in pairs(sent.params.notifications) do left[#left + 1] = k end
    table.sort(left)
    assert(table.concat(left, " ") == "new toolsListChanged", table.concat(left, " "))
    assert(passes(may("tools:read", "resources:read", "prompts:read"), m(all)).body == nil, "nothing was taken, so the body is the client's")
    assert(passes(may "tools:read", m { toolsListChanged = true, promptsListChanged = false }).body == nil)
    lacks("prompts:read", may "tools:read", m { promptsListChanged = true })
    lacks("prompts:read", may "tools:read", m { promptsListChanged = true, toolsListChanged = false })
    refused(400, -32600, may "tools:read", json.encode { m(all) })
  end,

  ["spellings that a lax server takes for another method are none"] = function()
    local f = may("tools:execute", "tools:read", "resources:read", "prompts:read")
    for _, method in ipairs { "Tools/Call", "tools/call ", "TOOLS/LIST", "tools//call", "tools/call\0", "tools.call", "resources/Read" } do
      refused(400, -32601, f, { jsonrpc = "2.0", id = 1, method = method, params = { name = "create_page" } })
    end
  end,

  ["the body is read in one way or not at all"] = function()
    local f = may("tools:execute", "tools:read")
    for _, body in ipairs { "", "{", "1", '"x"', "null", '{"jsonrpc":"2.0","method":"ping"}x', '{"method":"ping","method":"tools/call"}',
      '{"method":"tools/call","params":{"name":"list_x","name":"create_page"}}', '{"method":"tools/call","params":{"name":"list_x","n\\u0061me":"create_page"}}' } do
      refused(400, -32700, f, body)
    end
    for _, body in ipairs { "[]", "[1]", "[[]]", "{}", '{"id":1}', '{"method":5}', '{"method":""}', '{"method":"ping","Method":"tools/call"}',
      '{"method":"tools/call","params":{"name":"list_x","Name":"create_page"}}', '{"method":"tools/call","params":{"name":"list_x"},"PARAMS":{"name":"create_page"}}',
      '{"method":"tools/call","param\\u017f":{"name":"create_page"},"params":{"name":"list_x"}}', '{"method":"ping","method\\u0000x":"tools/call"}' } do
      refused(400, -32600, f, body)
    end
    refused(400, -32602, f, '{"method":"tools/call"}')
    refused(400, -32602, f, '{"method":"tools/call","params":["create_page"]}')
    refused(400, -32602, f, '{"method":"tools/call","params":{"name":["create_page"]}}')
    refused(400, -32700, f, call "list_x", { ["content-encoding"] = "gzip" })
    local got, answer = post(f, call "list_x", { ["content-type"] = "text/plain" })
    assert(not got and answer.status == 415)
    got, answer = mcp.judge(f, "PUT", {}, "")
    assert(not got and answer.status == 405)
    assert(mcp.judge(f, "GET", {}) and mcp.judge(f, "DELETE", {}))
    passes(f, '{"jsonrpc":"2.0","id":7,"result":{}}', { ["content-type"] = "application/json; charset=utf-8" })
    passes(f, '{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}')
  end,

  ["the quick reader of a call reads what the other reads, or leaves it to that"] = function()
    local read = require("request").mcp_call
    local version = '"io.modelcontextprotocol/protocolVersion"'
    local function is(name, revision, text)
      local n, r = read(text)
      assert(n == name and r == revision, text)
      local all = name and assert(json.decode(text))
      assert(not name or all.method == "tools/call" and all.params.name == name and (all.params._meta or {})["io.modelcontextprotocol/protocolVersion"] == revision, text)
    end
    is("x", nil, '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}')
    is("x", nil, ' { "params" : { "arguments" : {"name":"y","params":{"name":"z"},"_meta":{' .. version .. ':"1"}} , "name" : "x" } , "method" : "tools/call" } ')
    is("\u{e4}", "2026-07-28", '{"method":"tools/call","params":{"name":"\u{e4}","_meta":{"progressToken":{"a":[1]},' .. version .. ':"2026-07-28","x":{' .. version .. ':"1"}}},"id":"q"}')
    is("", nil, '{"method":"tools/call","params":{"name":"","arguments":[{"name":"y"}],"_meta":{}}}')
    for _, text in ipairs { "", "{", "{}", "[]", '"tools/call"', '[{"method":"tools/call","params":{"name":"x"}}]', '{"method":"tools/call"}', '{"method":"tools/call","params":{}}',
      '{"method":"tools/call","params":["x"]}', '{"method":"tools/call","params":{"name":5}}', '{"method":"tools/call","params":{"name":["x"]}}', '{"method":"tools/list","params":{"name":"x"}}',
      '{"method":"tools/call","params":{"name":"x"}}{', '{"method":"tools/call","params":{"name":"x"},}', '{"method":"tools/call","params":{"name":"x"}', '{"method":["tools/call"],"params":{"name":"x"}}',
      '{"method":"tools/call","method":"tools/call","params":{"name":"x"}}', '{"method":"tools/call","params":{"name":"x"},"params":{"name":"y"}}', '{"method":"tools/call","params":{"name":"x","name":"x"}}',
      '{"method":"tools/call","params":{"name":"x"},"Params":{"name":"y"}}', '{"method":"tools/call","params":{"name":"x","NAME":"y"}}', '{"method":"tools/call","params":{"name":"x","uri":"y"}}',
      '{"method":"tools/call","params":{"name":"x"},"result":{}}', '{"m\\u0065thod":"tools/call","params":{"name":"x"}}', '{"method":"tools\\/call","params":{"name":"x"}}',
      '{"method":"tools/call","params":{"n\\u0061me":"y","name":"x"}}', '{"method":"tools/call","params":{"name":"\\u0078"}}', '{"id":{"name":"y"},"method":"tools/call","params":{"name":"x"}}',
      '{"id":["name"],"method":"tools/call","params":{"name":"x"}}', '{"method":"tools/call","params":{"name":"x","_meta":[]}}', '{"method":"tools/call","params":{"name":"x","_meta":{' .. version .. ':1}}}',
      '{"method":"tools/call","params":{"name":"x","_meta":{' .. version .. ':"1",' .. version .. ':"2"}}}', '{"method":"tools/call","params":{"name":"x","_meta":{},"_meta":{' .. version .. ':"2"}}}',
      '{"method":"tools/call","params":{"name":"x\xff"}}', '{"method":"tools/call","params":{"arguments":{},"arguments":{},"name":"x"}}', '\u{feff}{"method":"tools/call","params":{"name":"x"}}' } do
      is(nil, nil, text)
    end
    -- what only looks like a mirror of the head goes the long way, and is refused there
    local f = may("tools:execute")
    for field, value in pairs { ["mcp-method"] = "tools/list", ["mcp-name"] = "y", ["mcp-param-a"] = "1" } do refused(400, -32020, f, call "x", { [field] = value }) end
    refused(400, -32020, f, call("x", { _meta = { ["io.modelcontextprotocol/protocolVersion"] = "2026-07-28" } }))
    refused(400, -32020, f, call("x", { _meta = { ["io.modelcontextprotocol/protocolVersion"] = "2025-06-18" } }), { ["mcp-protocol-version"] = "2025-11-25" })
  end,

  ["a batch is as strong as its strongest message"] = function()
    local f = may "tools:read"
    passes(f, { call "list_a", call "list_b" })
    lacks("tools:execute", f, { call "list_a", call "run" })
    refused(400, -32020, f, { call "list_a", call "list_b" }, { ["mcp-method"] = "tools/call" })
    refused(400, -32020, f, { call "list_a" }, { ["mcp-param-x"] = "1" })
  end,

  ["the mirror of method and name must be the body's (R6)"] = function()
    local f = may("tools:read", "tools:execute", "resources:read")
    local read = { jsonrpc = "2.0", id = 1, method = "resources/read", params = { uri = "file:///a" } }
    passes(f, call "list_a", { ["mcp-method"] = "tools/call", ["mcp-name"] = "list_a" })
    passes(f, call "list_a", { ["mcp-name"] = "=?base64?bGlzdF9h?=" })
    passes(f, read, { ["mcp-method"] = "resources/read", ["mcp-name"] = "file:///a" })
    for _, fields in ipairs { { ["mcp-method"] = "tools/list" }, { ["mcp-method"] = "Tools/call" }, { ["mcp-name"] = "list_b" }, { ["mcp-name"] = "" },
      { ["mcp-name"] = "list_a, list_b" }, { ["mcp-name"] = "=?base64?bGlzdF9i?=" }, { ["mcp-name"] = "=?base64?!!?=" } } do
      local _, said = refused(400, -32020, f, call "list_a", fields)
      assert(said.id == 1)
    end
    refused(400, -32020, f, { jsonrpc = "2.0", id = 1, method = "tools/list" }, { ["mcp-name"] = "run" })
    refused(400, -32020, f, { jsonrpc = "2.0", id = 1, result = {} }, { ["mcp-method"] = "tools/call" })
    refused(400, -32020, f, { jsonrpc = "2.0", id = json.null, method = "tools/list" }, { ["mcp-name"] = "run" })
  end,

  ["from 2026-07-28 on the mirror must be there, and the revision is one"] = function()
    local f = may "tools:execute"
    local new = { ["mcp-protocol-version"] = "2026-07-28" }
    refused(400, -32020, f, call "run", new)
    new["mcp-method"] = "tools/call"
    refused(400, -32020, f, call "run", new)
    new["mcp-name"] = "run"
    passes(f, call "run", new)
    local told = call("run", { _meta = { ["io.modelcontextprotocol/protocolVersion"] = "2025-11-25" } })
    refused(400, -32020, f, told, new)
    refused(400, -32020, f, call("run", { _meta = { ["io.modelcontextprotocol/protocolVersion"] = "2026-07-28" } }))
    refused(400, -32020, f, call "run", { ["mcp-protocol-version"] = "2027-01-31" })     -- one that comes later
    passes(f, call "run", { ["mcp-protocol-version"] = "2025-11-25" })
    passes(f, { jsonrpc = "2.0", id = 1, method = "server/discover" }, { ["mcp-protocol-version"] = "2026-07-28", ["mcp-method"] = "server/discover" })
  end,

  ["a field that mirrors an argument has one (R6)"] = function()
    local f = may "tools:execute"
    local with = call("run", { arguments = { region = "us-west1", deep = { { n = 42, yes = true } }, text = "a\nb" } })
    for _, v in ipairs { "us-west1", "42", "42.0", "true", "=?base64?YQpi?=" } do passes(f, with, { ["mcp-param-region"] = v }) end
    for _, v in ipairs { "us-west2", "43", "false", "", "=?base64?YQpj?=", "=?base64?*?=" } do
      refused(400, -32020, f, with, { ["mcp-param-region"] = v })
    end
    refused(400, -32020, f, call "run", { ["mcp-param-region"] = "us-west1" })
    refused(400, -32020, f, { jsonrpc = "2.0", id = 1, method = "tools/list" }, { ["mcp-param-region"] = "us-west1" })
    local many = {}
    for i = 1, 5000 do many[i] = i end
    refused(400, -32020, f, call("run", { arguments = { many = many } }), { ["mcp-param-region"] = "1" })
    passes(f, call("run", { arguments = { many = many } }))
  end,

  ["a pattern's star is any text, and a name of megabytes costs no more than its bytes"] = function()
    local verify = require "web.verify"
    local function slow(p, s)         -- by the definition
      if p == "" then return s == "" end
      if p:sub(1, 1) ~= "*" then return s ~= "" and s:sub(1, 1) == p:sub(1, 1) and slow(p:sub(2), s:sub(2)) end
      for i = 1, #s + 1 do
        if slow(p:sub(2), s:sub(i)) then return true end
      end
      return false
    end
    local function text(n, letters)
      local out = ""
      while n > 0 do out, n = out .. letters:sub(n % 3 + 1, n % 3 + 1), n // 3 end
      return out
    end
    for i = 0, 3 ^ 6 - 1 do
      for k = 0, 3 ^ 5 - 1 do
        local p, s = text(i, "a*b"), text(k, "aba")
        assert(verify.matches(p, s) == slow(p, s), p .. " " .. s)
      end
    end
    assert(verify.matches("a.%d*", "a.%dx") and not verify.matches("a.%d*", "ab1x"))
    local f = may("tools:execute")
    f.record = { name = "tools", url = record.url, read = { "*a*a*a*a*b" }, scopes = {} }
    passes(f, call(("a"):rep(3 << 20)))
  end,

  ["what lists show is what may be called"] = function()
    local verify = require "web.verify"
    local scopes = { "tools:read", "tools:execute", "entities:write", "admin:all", "resources:read", "prompts:read" }
    local names = { "run", "list_pages", "get_page", "create_page", "create_user", "list_user", "update_x", "x" }
    for bits = 0, 63 do
      local has = {}
      for i, s in ipairs(scopes) do has[#has + 1] = bits >> (i - 1) & 1 == 1 and s or nil end
      local f = may(table.unpack(has))
      local view = mcp.view(f)
      for _, name in ipairs(names) do
        local shown = view.rest:sub(1, 1) == "+"
        for allow, pattern in view.tools:gmatch("([+-])(%Z+)%z") do
          if verify.matches(pattern, name) then shown = allow == "+" break end
        end
        local may = verify.tool(f, name) or false
        assert(shown == may, name .. " with " .. table.concat(has, " "))
        for _ = 1, 3 do       -- the second time it is known
          assert((post(f, call(name)) ~= nil) == may, name .. " with " .. table.concat(has, " "))
        end
      end
      local function sign(scope) return f.scopes[scope] and "+" or "-" end
      assert(view.rest:sub(2) == sign "resources:read" .. sign "resources:read" .. sign "prompts:read", view.rest)
    end
  end,

  ["what may be called is noted for few tools and short names, and is never taken for another's"] = function()
    local f = may "tools:execute"
    for i = 1, 100 do passes(f, call("run" .. i)) end
    passes(f, call(("x"):rep(100)))
    local n = 0
    for name in pairs(f.called) do
      n = n + 1
      assert(#name <= 64)
    end
    assert(n == 16, n)
    for _, name in ipairs { "n", "calls", "called", "create_page", "", "1" } do
      assert((post(f, call(name)) ~= nil) == (name ~= "create_page"), name)
    end
    local reads = may "tools:read"
    passes(reads, call "get_page")
    for _, name in ipairs { "n", "calls", "called", "run1" } do lacks("tools:execute", reads, call(name)) end
  end,

  ["the record's members are JSON, whatever a peer calls its tools, and at most 256 bytes of each"] = function()
    local f = may "tools:read"
    f.user, f.client, f.gateway, f.connection = "ada", "", "tools", ("c"):rep(300)
    for _, name in ipairs { "get_page", 'a"\\\n\127', ("\0"):rep(300), ("\u{20ac}"):rep(100), "\xff\xc3", ("x"):rep(255) .. "\u{e9}", ("\u{1f600}"):rep(70) } do
      local said = json.decode("{" .. mcp.note(f, "tools/call", name):sub(2) .. "}")
      assert(said and said.user == "ada" and not said.oauth_client and said.gateway == "tools" and said.connection == ("c"):rep(256), name)
      assert(said.mcp_method == "tools/call" and #said.mcp_name <= 256 * 3 and utf8.len(said.mcp_name) > 0, name)
      if utf8.len(name) then assert(name:find(said.mcp_name, 1, true) == 1 and #said.mcp_name >= math.min(#name, 253), name) end
    end
    local said = json.decode("{" .. mcp.note(f):sub(2) .. "}")
    assert(said.user == "ada" and not said.mcp_method and not said.mcp_name)
  end,

  ["a pattern with a NUL, which no command writes, shows nothing"] = function()
    local f = may "tools:read"
    f.record = { name = "tools", url = record.url, read = { "get_*\0+*" }, scopes = {} }
    assert(not pcall(mcp.view, f))
  end,
}
