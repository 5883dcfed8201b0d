--- Which models may be asked, and for how much.
--
--   sallyport rule add models --type llm models='claude-haiku-*' models='gpt-5-mini*' max_tokens=4096
--
-- Asked about are calls that make a model speak: POST to the APIs of Anthropic, OpenAI and those that copied it, Gemini, Vertex,
-- Bedrock, Azure, Ollama. The model is a member `model` of the body, one of `models` (OpenRouter's, to fall back on), or stands in
-- the path; each that is named has to fit one of the patterns (`*`: any text). The bound holds for each member that names one (max_tokens, max_completion_tokens,
-- max_output_tokens, generationConfig.maxOutputTokens, inferenceConfig.maxTokens, options.num_predict); a call that names none may
-- go up to the model's own and is refused unless unset=allow. Batches whose requests lie in a file are refused: nobody here
-- reads that file. So are those in a member `batch` (Gemini). Calls to other paths (lists of models, files, embeddings) go on.
local speaking = {
  "/messages$", "/messages/batches$", "/complete$", "/completions$", "/responses$", ":generateContent$", ":streamGenerateContent$",
  ":rawPredict$", ":streamRawPredict$", ":predict$", "/converse$", "/converse%-stream$", "/invoke$", "/invoke%-with%-response%-stream$",
  "/api/generate$", "/api/chat$", "/batches$", ":batchGenerateContent$",
  "/runs$",
}
local in_path = { "/models/()[^/:]+():", "/model/()[^/]+()/", "/deployments/()[^/]+()/" }
local bounds = { "max_tokens", "max_completion_tokens", "max_output_tokens", "max_tokens_to_sample", "maxOutputTokens", "maxTokens", "num_predict",
  "max_new_tokens", "max_gen_len" }
local within = { "generationConfig", "generation_config", "inferenceConfig", "options", "textGenerationConfig", "parameters" }

-- One request of a model: what refuses it, whether it names a model and a bound. Names in other letters are somebody's, too.
local function judge(rule, body)
  local named, bounded = false, false
  local function model(v)
    if type(v) ~= "string" then return "the model is no text" end
    if rule.models[1] and not fits(rule.models, v) then return ("the model %s is not allowed here"):format(v:gsub("[%c\128-\255]", "?"):sub(1, 80)) end
    named = true
  end
  local function look(t)
    for k, v in pairs(t) do
      local low = type(k) == "string" and k:lower() or ""
      local several = low == "models" and v ~= json.null and (type(v) == "table" and v or { v })
      for _, one in pairs(several or (low == "model" or low == "model_id") and { v } or {}) do
        local why = model(one)
        if why then return why end
      end
      for _, name in ipairs(bounds) do
        if low == name:lower() and v ~= json.null then
          if type(v) ~= "number" then return ("%s is no number"):format(name) end
          if rule.max_tokens > 0 and (v > rule.max_tokens or v < 0) then return ("%s is over %d"):format(name, rule.max_tokens) end
          bounded = true
        end
      end
    end
  end
  local why = look(body)
  for k, v in pairs(body) do
    for _, name in ipairs(within) do
      if not why and type(k) == "string" and k:lower() == name:lower() and type(v) == "table" then why = look(v) end
    end
  end
  return why, named, bounded
end

-- What is looked for in a body that is too long to be read whole: pictures and files are.
local function members()
  local out = { "requests", "batch", "input_file_id" }
  for _, where in ipairs { "", "generationConfig.", "generation_config.", "inferenceConfig.", "options.", "textGenerationConfig.", "parameters." } do
    for _, name in ipairs { "model", "model_id", "models" } do out[#out + 1] = where .. name end
    for _, name in ipairs(bounds) do out[#out + 1] = where .. name end
  end
  return out
end

-- The members that were found, as the body that they stood in. Several values are a list's, which `models` alone may have.
local function body_of(found)
  local body = {}
  for path, values in pairs(found.values) do
    local where, name = path:match("^(.*)%.([^.]*)$")
    local value = (path:match("[^.]*$") == "models" and values[1] ~= json.null or #values > 1) and values or values[1]
    if where then
      body[where] = body[where] or {}
      body[where][name] = value
    else
      body[path] = value
    end
  end
  return body
end

return {
  kind = "rule", api = 1, name = "llm", title = "Which models may be asked, and for how much",
  fields = {
    { name = "models", type = "list", default = {}, help = "Patterns of their names: claude-haiku-*; without: any" },
    { name = "max_tokens", type = "integer", min = 0, default = 0, help = "At most so many for an answer; 0: any" },
    { name = "unset", type = "enum", values = { "deny", "allow" }, default = "deny", help = "Calls that name no bound" },
  },
  body = {}, reader = "json", members = members,
  on_request = function(req, ctx)
    local rule = ctx.rule
    if req.method == "GET" or req.method == "HEAD" or req.method == "OPTIONS" or req.method == "DELETE" then
      return req.websocket and deny("a conversation over a WebSocket cannot be read") or nil
    end
    local speaks, models, readings = false, {}, req.readings()
    if not readings then return deny("servers read this path in different ways") end
    for _, path in ipairs(readings) do
      path = path:gsub("/+$", "")
      for _, p in ipairs(speaking) do speaks = speaks or path:lower():find(p:lower()) ~= nil end
      for _, p in ipairs(in_path) do
        for from, to in path:lower():gmatch(p) do models[#models + 1] = path:sub(from, to - 1) end
      end
    end
    if not speaks then return nil end
    for _, model in ipairs(models) do
      if rule.models[1] and not fits(rule.models, model) then return deny(("the model %s is not allowed here"):format(model:gsub("[%c\128-\255]", "?"):sub(1, 80))) end
    end
    local body, why = req.json()
    if body == nil then
      local found
      found, why = req.members()
      body = found and body_of(found)
      if body and (body.requests ~= nil or body.batch ~= nil or body.input_file_id ~= nil) then return deny("this batch is longer than body-max, and nobody can read it") end
    end
    if type(body) ~= "table" then return deny(("the body cannot be read: %s"):format(why or "it is no object")) end
    if body.batch ~= nil and body.batch ~= json.null then return deny("a batch of this kind is not read") end
    -- Each request of a batch is a list of the objects that may say something of it: a server goes by one of them.
    local list = { { body } }
    if type(body.requests) == "table" then
      local refused = judge(rule, body)
      if refused then return deny(refused) end
      list = {}
      for _, r in pairs(body.requests) do
        if type(r) ~= "table" then return deny("a request of the batch is no object") end
        list[#list + 1] = { r, type(r.params) == "table" and r.params or nil, type(r.request) == "table" and r.request or nil }
      end
    end
    if body.input_file_id ~= nil or #list == 0 then return deny("the requests of this batch lie in a file, which nobody here reads") end
    for _, objects in ipairs(list) do
      local named, bounded = false, false
      for _, one in pairs(objects) do
        local refused, names_one, has_bound = judge(rule, one)
        if refused then return deny(refused) end
        named, bounded = named or names_one, bounded or has_bound
      end
      if rule.models[1] and not named and not models[1] then return deny("the call names no model") end
      if rule.max_tokens > 0 and not bounded and rule.unset == "deny" then
        return deny(("the call says nothing of how long the answer may be (max_tokens, at most %d)"):format(rule.max_tokens))
      end
    end
  end,
  examples = {
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages", headers = { ["content-type"] = "application/json" }, body = '{"model":"claude-haiku-4-5","max_tokens":10}' } },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages", headers = { ["content-type"] = "application/json" }, body = '{"model":"claude-opus-4-1","max_tokens":10}' },
      want = "the model claude-opus-4-1 is not allowed here" },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages", headers = { ["content-type"] = "application/json" }, body = '{"Model":"x","model":"claude-haiku-1"}' }, want = true },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages", headers = { ["content-type"] = "application/json" }, body = '{"model":"claude-haiku-1","model":"x"}' }, want = true },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1//messages", headers = { ["content-type"] = "application/json" }, body = '{"model":"x"}' }, want = true },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages/batches", headers = { ["content-type"] = "application/json" }, body = '{"requests":[{"custom_id":"a","params":{"model":"claude-haiku-1"}},{"custom_id":"b","params":{"model":"x"}}]}' },
      want = "the model x is not allowed here" },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages", headers = { ["content-type"] = "application/json" }, body = '{"model":"x","requests":[{"params":{"model":"claude-haiku-1"}}]}' },
      want = "the model x is not allowed here" },
    { rule = { models = { "claude-haiku-*" } }, req = { method = "POST", url = "https://api.anthropic.com/v1/messages/batches", headers = { ["content-type"] = "application/json" }, body = '{"requests":[{"params":{"model":"claude-haiku-1"},"request":{"model":"x"}}]}' },
      want = "the model x is not allowed here" },
    { rule = { models = { "a/*" } }, req = { method = "POST", url = "https://openrouter.ai/api/v1/chat/completions", headers = { ["content-type"] = "application/json" }, body = '{"model":"a/1","models":["a/2","b/1"]}' },
      want = "the model b/1 is not allowed here" },
    { rule = { models = { "a/*" } }, req = { method = "POST", url = "https://openrouter.ai/api/v1/chat/completions", headers = { ["content-type"] = "application/json" }, body = '{"models":["a/1","a/2"]}' } },
    { rule = { max_tokens = 100 }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions", headers = { ["content-type"] = "application/json" }, body = '{"model":"m","max_completion_tokens":101}' }, want = "max_completion_tokens is over 100" },
    { rule = { max_tokens = 100 }, req = { method = "POST", url = "https://api.openai.com/v1/responses", headers = { ["content-type"] = "application/json" }, body = '{"model":"m"}' }, want = true },
    { rule = { max_tokens = 100, unset = "allow" }, req = { method = "POST", url = "https://api.openai.com/v1/responses", headers = { ["content-type"] = "application/json" }, body = '{"model":"m"}' } },
    { rule = { models = { "gemini-*" }, max_tokens = 100 }, req = { method = "POST", url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2:generateContent", headers = { ["content-type"] = "application/json" }, body = '{"generationConfig":{"maxOutputTokens":50}}' } },
    { rule = { models = { "gemini-*" } }, req = { method = "POST", url = "https://generativelanguage.googleapis.com/v1beta/models/other:generateContent", headers = { ["content-type"] = "application/json" }, body = "{}" }, want = true },
    { rule = { models = { "gemini-*" } }, req = { method = "POST", url = "https://generativelanguage.googleapis.com/v1beta/Models/other:generateContent", headers = { ["content-type"] = "application/json" }, body = '{"model":"gemini-2"}' }, want = "the model other is not allowed here" },
    { rule = { max_tokens = 9, unset = "allow" }, req = { method = "POST", url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2:batchGenerateContent", headers = { ["content-type"] = "application/json" }, body = '{"batch":{"input_config":{"requests":{"requests":[{"request":{"generationConfig":{"maxOutputTokens":10}}}]}}}}' }, want = "a batch of this kind is not read" },
    { rule = { models = { "gpt-*" } }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions", headers = { ["content-type"] = "application/json; charset=utf-7" }, body = '{"model":"gpt-1"}' }, want = "the body cannot be read: the body is not UTF-8" },
    { rule = { models = { "gpt-*" } }, req = { method = "POST", url = "https://api.openai.com/v1/batches", headers = { ["content-type"] = "application/json" }, body = '{"input_file_id":"f"}' }, want = true },
    { rule = { models = { "gpt-*" } }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions%zz", headers = { ["content-type"] = "application/json" }, body = '{"model":"x"}' }, want = "servers read this path in different ways" },
    { rule = { models = { "gpt-*" } }, req = { method = "POST", url = "https://api.openai.com/V1/Chat/Completions", headers = { ["content-type"] = "application/json" }, body = '{"model":"x"}' }, want = true },
    { rule = { models = { "gpt-*" } }, req = { method = "POST", url = "https://api.openai.com/v1/embeddings", headers = { ["content-type"] = "application/json" }, body = '{"model":"e"}' } },
    { rule = { models = { "gpt-*" } }, req = { method = "POST", url = "https://api.openai.com/v1/chat/completions", headers = { ["content-type"] = "application/json", ["content-encoding"] = "gzip" }, body = "x" }, want = true },
  },
}
