using System.Reflection;
using Xunit.Sdk;

namespace Curling.EndToEnd.Tests;

/// <summary>A case of a theory that only the longer form of the tests runs: where <c>CURLING_KILLS</c> is set.</summary>
[AttributeUsage(AttributeTargets.Method, AllowMultiple = true)]
public sealed class LongFormDataAttribute(params object[] data) : DataAttribute
{
    /// <inheritdoc/>
    public override IEnumerable<object[]> GetData(MethodInfo testMethod) =>
        Environment.GetEnvironmentVariable("CURLING_KILLS") is { Length: > 0 } ? [data] : [];
}
