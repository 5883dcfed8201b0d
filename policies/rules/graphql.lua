--- Which operations and which of their first fields a GraphQL API is asked for.
--
--   sallyport rule add readonly --type graphql --host api.github.com --path /graphql operations=query
--   sallyport rule add few --type graphql --host api.acme.test --path /graphql allow='viewer' allow='repo*' deny='deleteRepo'
--
-- Every operation of the document counts, whichever operationName names, and every field of its first level, through fragments
-- and whatever alias it has. `operations` are the kinds that may be sent; a field goes on if a pattern of `allow` fits its name,
-- or there is none, and none of `deny` does (`*`: any text). A query may stand in a JSON body, each of a batch, in a body of the type
-- application/graphql, or in the URL; a body of another type is refused. So is a request that names a stored document by its hash and
-- brings no text: nobody here knows what it says; and one that names another than its text (documentId, doc_id, id beside `query`), for
-- some servers run that; and a document that cannot be read. An automatic persisted query goes on where its hash is that of its text.
local TOKENS = 20000

-- The document as a list of names and punctuators; strings and numbers are "0". nil: it is none.
local function tokens(text)
  local out, at = {}, 1
  while true do
    at = text:find("[^%s,]", at)
    if not at then return out end
    if #out >= TOKENS then return nil end
    local c = text:sub(at, at)
    local name = text:match("^[%a_][%w_]*", at)
    if name then
      out[#out + 1], at = name, at + #name
    elseif c == "#" then
      at = text:find("[\r\n]", at) or #text + 1
    elseif text:sub(at, at + 2) == '"""' then
      local from = at + 3
      repeat
        from = text:find('"""', from, true)
        local escaped = from and text:sub(from - 1, from - 1) == "\\"
        if escaped then from = from + 3 end
      until not escaped
      if not from then return nil end
      out[#out + 1], at = "0", from + 3
    elseif c == '"' then
      at = at + 1
      while true do
        local b = text:sub(at, at)
        if b == "" or b == "\n" or b == "\r" then return nil end
        at = at + (b == "\\" and 2 or 1)
        if b == '"' then break end
      end
      out[#out + 1] = "0"
    elseif text:sub(at, at + 2) == "..." then
      out[#out + 1], at = "...", at + 3
    elseif text:find("^[-%d]", at) then
      out[#out + 1], at = "0", at + #text:match("^[-%d.eE+]+", at)
    elseif c:find("[{}()%[%]:!$=@|&]") then
      out[#out + 1], at = c, at + 1
    elseif text:sub(at, at + 2) == "\u{feff}" then
      at = at + 3
    else
      return nil
    end
  end
end

local closes = { ["("] = ")", ["{"] = "}", ["["] = "]" }

-- Behind what is opened at i. nil: it does not end.
local function behind(list, i)
  local open = {}
  repeat
    local t = list[i]
    if t == nil then return nil end
    if closes[t] then open[#open + 1] = closes[t]
    elseif t == ")" or t == "}" or t == "]" then
      if open[#open] ~= t then return nil end
      open[#open] = nil
    end
    i = i + 1
  until #open == 0
  return i
end

-- Behind the directives at i.
local function directives(list, i)
  while i and list[i] == "@" do
    i = i + 2
    if list[i] == "(" then i = behind(list, i) end
  end
  return i
end

-- The fields of the selection set at i, into `out`; names of fragments into out.spread. Behind it | nil
local function selection(list, i, out)
  if list[i] ~= "{" then return nil end
  i = i + 1
  while list[i] ~= "}" do
    if list[i] == "..." then
      i = i + 1
      if list[i] and list[i]:find("^[%a_]") and list[i] ~= "on" then
        out.spread[#out.spread + 1] = list[i]
        i = directives(list, i + 1)
      else
        if list[i] == "on" then i = i + 2 end
        i = directives(list, i)
        i = i and selection(list, i, out)
      end
    elseif list[i] and list[i]:find("^[%a_]") then
      if list[i + 1] == ":" then i = i + 2 end
      if not (list[i] and list[i]:find("^[%a_]")) then return nil end
      out[#out + 1] = list[i]
      i = i + 1
      if list[i] == "(" then i = behind(list, i) end
      i = i and directives(list, i)
      if i and list[i] == "{" then i = behind(list, i) end
    else
      return nil
    end
    if not i then return nil end
  end
  return i + 1
end

local kinds = { query = true, mutation = true, subscription = true }

-- What refuses the document: a text | nil
local function judge(rule, text)
  local list = type(text) == "string" and tokens(text)
  if not list or #list == 0 then return "the document cannot be read" end
  local operations, fragments, i = {}, {}, 1
  while i <= #list do
    local kind, fields = list[i], { spread = {} }
    if kind == "{" then
      kind = "query"
    elseif kind == "fragment" then
      local name = list[i + 1]
      if list[i + 2] ~= "on" or fragments[name] then return "the document cannot be read" end
      fragments[name], i = fields, directives(list, i + 4)
    elseif kinds[kind] then
      i = i + 1
      if list[i] and list[i]:find("^[%a_]") then i = i + 1 end
      if list[i] == "(" then i = behind(list, i) end
      i = i and directives(list, i)
    else
      return "the document cannot be read"
    end
    i = i and selection(list, i, fields)
    if not i then return "the document cannot be read" end
    if kinds[kind] then operations[#operations + 1] = { kind = kind, fields = fields } end
  end
  local function look(fields, seen)
    for _, name in ipairs(fields) do
      if name ~= "__typename" and (rule.allow[1] and not fits(rule.allow, name) or fits(rule.deny, name)) then
        return ("the field %s is not allowed here"):format(name:sub(1, 80))
      end
    end
    for _, name in ipairs(fields.spread) do
      if not fragments[name] then return "the document cannot be read" end
      if not seen[name] then
        seen[name] = true
        local why = look(fragments[name], seen)
        if why then return why end
      end
    end
  end
  if not operations[1] then return "the document has no operation" end
  for _, op in ipairs(operations) do
    local listed = not rule.operations[1]
    for _, kind in ipairs(rule.operations) do listed = listed or kind == op.kind end
    if not listed then return ("a %s is not allowed here"):format(op.kind) end
    local why = look(op.fields, {})
    if why then return why end
  end
end

-- Members by which servers know a stored document, in small letters and without - and _.
local ids = { id = true, documentid = true, docid = true, queryid = true, operationid = true, persistedqueryid = true, hash = true, sha256hash = true,
  persistedquery = true, queryhash = true, documenthash = true, operationhash = true }
local function fold(name) return (name:lower():gsub("[_%c -]", "")) end
local function names_stored(name) return ids[fold(name)] end

-- Is it the hash of this text, by each of its names?
local function is_hash(persisted, query)
  if type(query) ~= "string" or type(persisted) ~= "table" or persisted.sha256Hash == nil then return false end
  local hash = secret.hex(sign.sha256(query))
  for k, v in pairs(persisted) do
    if type(k) ~= "string" or names_stored(k) and (type(v) ~= "string" or v:lower() ~= hash) then return false end
  end
  return true
end

-- Does a request name a document that may be another than its text?
local function stored(one)
  for k, v in pairs(one) do
    if type(k) == "string" and v ~= json.null then
      if names_stored(k) then return true end
      if fold(k) == "extensions" then
        if type(v) ~= "table" then return true end
        for name, x in pairs(v) do
          if type(name) ~= "string" or names_stored(name) and not (name == "persistedQuery" and is_hash(x, one.query)) then return true end
        end
      end
    end
  end
  return false
end

local asking = { query = true, operationname = true, variables = true, extensions = true }

-- Does the URL ask a GraphQL API? Others have an `id` or a `hash` in it, too.
local function asks(req, list)
  if req.has_body then return true end
  for _, pair in ipairs(list) do
    if asking[fold(pair[1])] then return true end
  end
  for _, path in ipairs(req.readings() or { "/graphql" }) do
    if path:lower():find("graphql", 1, true) or path:lower():find("gql", 1, true) then return true end
  end
  return false
end

return {
  kind = "rule", api = 1, name = "graphql", title = "What a GraphQL API is asked for",
  fields = {
    { name = "operations", type = "list", default = {}, help = "Kinds that may be sent: query, mutation, subscription" },
    { name = "allow", type = "list", default = {}, help = "Patterns of first fields that may be asked for; without: all" },
    { name = "deny", type = "list", default = {}, help = "Patterns of first fields that may not" },
  },
  body = {},
  validate = function(rule)
    for _, kind in ipairs(rule.operations) do
      if not kinds[kind] then return nil, "operations", "are query, mutation, subscription" end
    end
    return true
  end,
  on_request = function(req, ctx)
    if req.websocket then return deny("a conversation over a WebSocket cannot be read") end
    local asked = 0
    local list = req.query_text ~= "" and (uri.parse_query(req.query_text) or { { "query", "" } }) or {}
    for _, pair in ipairs(list) do
      local name = fold(pair[1]:match("^[^%[]*"))
      if name == "query" then
        asked = asked + 1
        local why = judge(ctx.rule, pair[2])
        if why then return deny(why) end
      elseif name == "extensions" or ids[name] and (name ~= "id" and name ~= "hash" or asks(req, list)) then
        return deny("a stored document, of which no text need come")
      end
    end
    if not req.has_body then return nil end
    local of = form.of(req.headers)
    if of.media == "application/graphql" then
      local why = of.why or judge(ctx.rule, req.body)
      return why and deny(why) or nil
    end
    if of.kind ~= "json" and not of.bare then
      return deny(("the body cannot be read: %s"):format(of.why or "its Content-Type does not say that it is JSON"))
    end
    -- Rack takes a body without a type for a form
    local pairs_of = not of.bare and {} or form.values(req.body or "", "query", "extensions", "documentid", "document_id", "docid", "doc_id", "queryid", "query_id")
    if not pairs_of or pairs_of[1] then return deny("the body is a query to servers that take it for a form") end
    local body, why = req.json()
    if type(body) ~= "table" then return deny(("the body cannot be read: %s"):format(why or "it is no object")) end
    for _, one in ipairs(body[1] ~= nil and body or { body }) do
      if type(one) ~= "table" then return deny("the body cannot be read") end
      for k in pairs(one) do
        if type(k) == "string" and k ~= "query" and k:lower() == "query" then return deny("a member only looks like query") end
      end
      if one.query == nil or one.query == json.null then return deny("a stored document, of which no text came") end
      if stored(one) then return deny("a stored document is named beside the text") end
      local refused = judge(ctx.rule, one.query)
      if refused then return deny(refused) end
      asked = asked + 1
    end
    return asked == 0 and deny("the body asks for nothing") or nil
  end,
  examples = {
    { rule = { operations = { "query" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{ viewer { login } }"}' } },
    { rule = { operations = { "query" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"mutation X { deleteRepo(id: 1) { ok } }"}' }, want = "a mutation is not allowed here" },
    { rule = { operations = { "query" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"operationName":"A","query":"query A { a } mutation B { b }"}' }, want = "a mutation is not allowed here" },
    { rule = { deny = { "deleteRepo" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"mutation { x: deleteRepo(id: \\"}\\") { ok } }"}' }, want = "the field deleteRepo is not allowed here" },
    { rule = { deny = { "deleteRepo" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"mutation { ...F } fragment F on M { deleteRepo { ok } }"}' }, want = "the field deleteRepo is not allowed here" },
    { rule = { deny = { "deleteRepo" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"mutation { ... @include(if: true) { ... on M { deleteRepo } } }"}' }, want = "the field deleteRepo is not allowed here" },
    { rule = { deny = { "deleteRepo" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"query { search(q: \\"\\"\\" deleteRepo } \\"\\"\\") { deleteRepo } }"}' } },
    { rule = { allow = { "viewer", "repo*" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '[{"query":"{ viewer { a } }"},{"query":"{ secrets }"}]' }, want = "the field secrets is not allowed here" },
    { rule = { allow = { "viewer" } }, req = { method = "GET", url = "https://api.example.com/graphql?query=%7Bsecrets%7D" }, want = "the field secrets is not allowed here" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/graphql" }, body = "{ viewer { login } # secrets\n }" } },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"extensions":{"persistedQuery":{"sha256Hash":"x"}}}' }, want = "a stored document, of which no text came" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","doc_id":"1"}' }, want = "a stored document is named beside the text" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","extensions":{"persistedQuery":{"version":1,"sha256Hash":"00"}}}' }, want = "a stored document is named beside the text" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","extensions":{"persistedQuery":{"version":1,"sha256Hash":"6c1358d167943758b4d42060c70eb270bc2df178458db8d53fca49aa9079a0fc"}}}' } },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{ viewer "}' }, want = "the document cannot be read" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{ viewer }","QUERY":"{ secrets }"}' }, want = true },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json; charset=utf-7" }, body = '{"query":"{ viewer }"}' }, want = "the body cannot be read: the body is not UTF-8" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/graphql; charset=utf-7" }, body = '{ viewer }' }, want = "the body is not UTF-8" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/x-www-form-urlencoded" }, body = '{"query":"{ viewer }","x":"&query=mutation{secrets}&"}' }, want = "the body cannot be read: its Content-Type does not say that it is JSON" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", body = '{"query":"{ viewer }","x":"&query=mutation{secrets}&"}' }, want = "the body is a query to servers that take it for a form" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", body = '{"query":"{ viewer }"}' } },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","Extensions":{"persistedQuery":{"sha256Hash":"00"}}}' }, want = "a stored document is named beside the text" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","extensions":"{}"}' }, want = "a stored document is named beside the text" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","extensions":{"persistedQuery":{"sha256Hash":"6c1358d167943758b4d42060c70eb270bc2df178458db8d53fca49aa9079a0fc","SHA256HASH":"00"}}}' }, want = "a stored document is named beside the text" },
    { rule = { allow = { "viewer" } }, req = { method = "POST", headers = { ["content-type"] = "application/json" }, body = '{"query":"{viewer}","Query_Hash":"00"}' }, want = "a stored document is named beside the text" },
    { rule = { allow = { "viewer" } }, req = { method = "GET", url = "https://api.example.com/users?id=5" } },
    { rule = { allow = { "viewer" } }, req = { method = "GET", url = "https://api.example.com/graphql?id=5" }, want = "a stored document, of which no text need come" },
    { rule = { allow = { "viewer" } }, req = { method = "GET", url = "https://api.example.com/api?id=5&Variables=x" }, want = "a stored document, of which no text need come" },
    { rule = { allow = { "viewer" } }, req = { method = "GET", url = "https://api.example.com/api?doc_id=5" }, want = "a stored document, of which no text need come" },
  },
}
