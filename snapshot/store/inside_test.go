package store

// ApplyLayerForTest is what the tests outside of the package see of applyLayer.
var ApplyLayerForTest = applyLayer
